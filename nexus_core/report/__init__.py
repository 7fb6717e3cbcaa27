"""What a run says to a person (report.html) and to a program (report.json), from the artifacts that it left."""
