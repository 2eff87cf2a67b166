"""The steps of the scenario, on Mailkeep's own lab: create, converge, verify, destroy."""

import sys

from mailkeep.errors import UserError
from mailkeep.lab import Internet, Lab
from mailkeep.lab.site import Site, create_site
from mailkeep.verify.verification import verify_and_report


def the_site(lab: Lab) -> tuple[Site, Internet]:
    internet = lab.boot_internet(fresh=False)
    return create_site(lab, lab.boot_server("mail", hostname="mail.example.test", fresh=False)), internet


def create(lab: Lab) -> None:
    made, internet = the_site(lab)
    internet.resolve_for(made.server)
    made.publish(internet)


def converge(lab: Lab) -> None:
    made, _ = the_site(lab)
    deployed = made.deploy()
    if deployed.code:
        raise UserError(deployed.output)
    print("\n".join([*deployed.changed, f"changes {len(deployed.changed)}"]))


def check(lab: Lab) -> None:
    made, _ = the_site(lab)
    if not verify_and_report(made.inventory):
        raise UserError("verification failed")


def destroy(lab: Lab) -> None:
    lab.destroy()


if __name__ == "__main__":
    try:
        {"create": create, "converge": converge, "verify": check, "destroy": destroy}[sys.argv[1]](Lab())
    except UserError as error:
        sys.exit(str(error))
