"""How long a model takes, measured by turns in processes of their own: for `minitx bench` and for `bench/`."""
