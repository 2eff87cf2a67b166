"""A lab: containers that stand in for a server, for the Internet around it, and for an attacker.

lab = Lab("mailkeep")
server = lab.boot_server("mail", hostname="mail.example.test")
server.run("apt-get update")
lab.destroy()
"""

from mailkeep.lab.addresses import DEMO_NETWORK
from mailkeep.lab.attacker import Attacker
from mailkeep.lab.container import Container
from mailkeep.lab.internet import Internet, Received
from mailkeep.lab.lab import Lab, Server
from mailkeep.lab.podman import LabError, poll

__all__ = ["DEMO_NETWORK", "Attacker", "Container", "Internet", "Lab", "LabError", "Received", "Server", "poll"]
