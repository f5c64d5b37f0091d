"""What is minimised, whatever the framework: kinds of supervision, their terms, heads and phases, each by its name."""
