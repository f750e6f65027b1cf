"""What a Plan is rendered to; each target is one file."""
