"""Stage 3: from what profiling proved to the student's shape, `student_arch.json`, with a reason for every decision."""
