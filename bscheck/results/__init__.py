"""What a run says: verdicts, failure texts, records and known issues. Knows verdicts, not checks."""
