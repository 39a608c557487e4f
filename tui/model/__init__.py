"""What is shown, as plain data: runs, tasks, tables, filters. No I/O and no Textual happens here."""
