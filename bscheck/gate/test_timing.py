"""What a batch size costs: powers of two against odd neighbours, padding and splitting."""

from bscheck.gate import promise

neighbours = promise("one_example_more_than_a_power_of_two_costs_one_example_more")
padding = promise("odd_batch_is_not_dearer_than_padding_to_the_next_power_of_two")
splitting = promise("batch_is_not_dearer_than_the_parts_it_could_be_split_into")
drift = promise("steps_do_not_slow_down_as_training_goes_on")
cliffs = promise("no_batch_size_got_dearer_than_in_the_previous_record")
sweep = promise("time_by_batch_size_is_reported")
