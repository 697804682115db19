"""Where candidates are evaluated: in this process, or in processes of their own."""
