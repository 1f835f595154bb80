"""``python -m dfq_plugin``: the ``dfq`` command where no script was installed."""

from dfq_plugin.cli import main

main()
