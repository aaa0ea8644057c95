"""What a batch size takes of the memory, and what stays of it afterwards."""

from bscheck.gate import promise

leaks = promise("steps_leave_nothing_behind")
tracing = promise("batch_sizes_seen_before_are_not_traced_again")
peaks = promise("peak_memory_by_batch_size_is_reported")
