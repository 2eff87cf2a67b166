"""The steps of the scenario, on Mailkeep's own lab: create, converge, verify, destroy."""

import sys

from mailkeep.errors import UserError
from mailkeep.lab import Internet, Lab
from mailkeep.lab.site import Site, create_site
from mailkeep.verify.verification import verify_and_report


def boot_site(lab: Lab) -> tuple[Site, Internet]:
    internet = lab.boot_internet(fresh=False)
    return create_site(lab, lab.boot_server("mail", hostname="mail.example.test", fresh=False)), internet


def create_instance(lab: Lab) -> None:
    site, internet = boot_site(lab)
    internet.resolve_for(site.server)
    site.publish(internet)


def converge(lab: Lab) -> None:
    site, _ = boot_site(lab)
    result = site.deploy()
    if result.code:
        raise UserError(result.output)
    print("\n".join([*result.changed, f"changes {len(result.changed)}"]))


def verify(lab: Lab) -> None:
    site, _ = boot_site(lab)
    if not verify_and_report(site.inventory):
        raise UserError("verification failed")


def destroy_lab(lab: Lab) -> None:
    lab.destroy()


STEPS = {"create": create_instance, "converge": converge, "verify": verify, "destroy": destroy_lab}

if __name__ == "__main__":
    try:
        STEPS[sys.argv[1]](Lab())
    except UserError as error:
        sys.exit(str(error))
