"""The student: modules that a tower builds and a bundle carries. Imports torch."""
