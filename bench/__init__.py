"""minitx against its peers on this machine: `python -m bench --help`."""
