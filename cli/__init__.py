"""The command line. Lives in ``cli/``, installs as ``badexpert_cli``."""
