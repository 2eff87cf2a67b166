"""For pyinfra's own program, run in this clone: hosts are reached as by `mailkeep deploy`."""

from mailkeep.host.ssh_connector import use_ssh_program

use_ssh_program()
