"""The entry for pyinfra: `pyinfra inventories/NAME/inventory.py deploy.py` does the same as `mailkeep deploy NAME`."""

from mailkeep.deploy import deploy_host

deploy_host()
