"""What the installed Keras exports, enumerated: coverage is never left to luck."""
