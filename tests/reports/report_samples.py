"""Reports in the shapes that large receivers send them, with documentation domains and addresses.

The shapes were learnt from public samples: the elements and their order, white space, and how the report hangs on its
message. The values are made up.
"""

import gzip
import io
import json
import zipfile
from base64 import encodebytes
from dataclasses import dataclass
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

BEGIN, END = 1_795_737_600, 1_795_823_999
"""The day of the samples, 2026-11-27, in seconds since the epoch."""
NOW = END + 8 * 3600
OURS, SHOP, STRANGER = "203.0.113.25", "198.51.100.60", "192.0.2.66"
TO = "postmaster@mail.example.org"


@dataclass(frozen=True)
class Sample:
    """`rows` is what the report says: source, messages, whether DKIM and SPF passed."""

    message: bytes
    sender: str
    reporter: str
    rows: tuple[tuple[str, int, bool, bool], ...] = ()


def pack_zip(text: bytes, name: str = "report.xml") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


def compose_body_report(sender: str, content: bytes, kind: str, name: str = "r.xml.gz") -> bytes:
    """The report is the body itself, as Google's and Mimecast's."""
    return (
        f"Received: from mx.example.net (mx.example.net [198.51.100.1])\r\n\tby mail.example.org; Sat, 28 Nov 2026\r\n"
        f"From: {sender}\r\nTo: {TO}\r\nSubject: Report domain: example.org Submitter: example.net Report-ID: 7\r\n"
        f'MIME-Version: 1.0\r\nContent-Type: {kind};\r\n\tname="{name}"\r\n'
        f'Content-Disposition: attachment;\r\n\tfilename="{name}"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    ).encode() + encodebytes(content).replace(b"\n", b"\r\n")


def compose_attached_report(sender: str, content: bytes, kind: str, name: str, *, subtype: str = "mixed") -> bytes:
    """Beside a text for people."""
    message = MIMEMultipart(subtype)
    message["From"], message["To"], message["Subject"] = sender, TO, "Dmarc Aggregate Report Domain: {example.org}"
    message.attach(MIMEText("This is an aggregate report.", "plain", "us-ascii"))
    part = MIMEApplication(content)
    part.replace_header("Content-Type", kind)
    part.add_header("Content-Disposition", "attachment", filename=name)
    message.attach(part)
    return message.as_bytes()


def compose_record(source: str, count: int, dkim: str, spf: str, checks: str, more: str = "") -> str:
    return (
        f"<record><row><source_ip>{source}</source_ip><count>{count}</count><policy_evaluated>"
        f"<disposition>none</disposition><dkim>{dkim}</dkim><spf>{spf}</spf>{more}</policy_evaluated></row>"
        f"<identifiers><header_from>example.org</header_from></identifiers><auth_results>{checks}</auth_results></record>"
    )


PASSED_DKIM = "<dkim><domain>example.org</domain><result>pass</result><selector>s1</selector></dkim>"
PASSED_SPF = "<spf><domain>example.org</domain><result>pass</result></spf>"
HEAD = (
    "<report_metadata><org_name>{name}</org_name><email>{email}</email><report_id>{number}</report_id>"
    f"<date_range><begin>{BEGIN}</begin><end>{END}</end></date_range></report_metadata>"
    "<policy_published><domain>example.org</domain><adkim>r</adkim><aspf>r</aspf><p>none</p><sp>none</sp>"
    "<pct>100</pct></policy_published>"
)


def compose_xml(name: str = "example.net", number: str = "1", *records: str) -> bytes:
    """A plain report. Without records, one of our server that passed."""
    rows = records or (compose_record(OURS, 4, "pass", "pass", PASSED_DKIM + PASSED_SPF),)
    head = HEAD.format(name=name, email=f"dmarc@{name}", number=number)
    return f'<?xml version="1.0" encoding="UTF-8" ?><feedback>{head}{"".join(rows)}</feedback>'.encode()


# Google: zip as the body; no version; selector after result.
GOOGLE = Sample(
    compose_body_report(
        "noreply-dmarc-support@google.example",
        pack_zip(compose_xml("google.example", "8047041664389952409"), "google.example!example.org!1!2.xml"),
        "application/zip",
        f"google.example!example.org!{BEGIN}!{END}.zip",
    ),
    "google.example",
    "google.example",
    ((OURS, 4, True, True),),
)

# Microsoft: namespaces of XML Schema on the root, envelope_to, scope; gzip beside a text in HTML.
MICROSOFT = Sample(
    compose_attached_report(
        "DMARC Aggregate Report <dmarcreport@microsoft.example>",
        gzip.compress(
            b'<?xml version="1.0"?>\r\n<feedback xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
            b'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\r\n  <version>1.0</version>\r\n'
            b"  <report_metadata>\r\n    <org_name>Outlook.example</org_name>\r\n"
            b"    <email>dmarcreport@microsoft.example</email>\r\n    <report_id>cfeafefe4129</report_id>\r\n"
            b"    <date_range>\r\n      <begin>1795737600</begin>\r\n      <end>1795824000</end>\r\n"
            b"    </date_range>\r\n  </report_metadata>\r\n  <policy_published>\r\n"
            b"    <domain>example.org</domain>\r\n    <adkim>r</adkim>\r\n    <aspf>r</aspf>\r\n    <p>none</p>\r\n"
            b"    <sp>none</sp>\r\n    <pct>100</pct>\r\n    <fo>0</fo>\r\n  </policy_published>\r\n  <record>\r\n"
            b"    <row>\r\n      <source_ip>192.0.2.66</source_ip>\r\n      <count>1</count>\r\n"
            b"      <policy_evaluated>\r\n        <disposition>none</disposition>\r\n        <dkim>fail</dkim>\r\n"
            b"        <spf>fail</spf>\r\n      </policy_evaluated>\r\n    </row>\r\n    <identifiers>\r\n"
            b"      <envelope_to>hotmail.example</envelope_to>\r\n"
            b"      <envelope_from>example.org</envelope_from>\r\n      <header_from>example.org</header_from>\r\n"
            b"    </identifiers>\r\n    <auth_results>\r\n      <spf>\r\n        <domain>example.org</domain>\r\n"
            b"        <scope>mfrom</scope>\r\n        <result>fail</result>\r\n      </spf>\r\n"
            b"    </auth_results>\r\n  </record>\r\n</feedback>\r\n"
        ),
        "application/gzip",
        "protection.outlook.example!example.org!1795737600!1795824000.xml.gz",
    ),
    "microsoft.example",
    "Outlook.example",
    ((STRANGER, 1, False, False),),
)

# Yahoo: tabs at the ends of lines, a space within a number.
YAHOO = Sample(
    compose_attached_report(
        "dmarchelp@yahoo.example",
        gzip.compress(
            compose_xml("Yahoo! Inc.", "1405588706.570207", compose_record(SHOP, 2, "fail", "pass", PASSED_SPF))
            .replace(b"</end>", b" </end>\t\n")
            .replace(b"</row>", b"</row>\t\n")
        ),
        "application/gzip",
        f"yahoo.example!example.org!{BEGIN}!{END}.xml.gz",
    ),
    "yahoo.example",
    "Yahoo! Inc.",
    ((SHOP, 2, False, True),),
)

# Amazon SES: an old version number, tabs, two signatures, the content type of any file.
AMAZON = Sample(
    compose_attached_report(
        "postmaster@amazonses.example",
        gzip.compress(
            compose_xml(
                "AMAZON-SES",
                "fd22fed8-be9b-4788",
                compose_record(
                    SHOP,
                    1,
                    "pass",
                    "fail",
                    "<dkim><domain>amazonses.example</domain><result>pass</result></dkim>"
                    "<dkim><domain>example.org</domain><result>pass</result></dkim>"
                    "<spf><domain>us-west-2.amazonses.example</domain><result>pass</result></spf>",
                ),
            ).replace(b"<feedback>", b"<feedback>\n\t<version>0.1</version>\n\t")
        ),
        "application/octet-stream",
        "amazonses.example!example.org!1!2.xml.gz",
    ),
    "amazonses.example",
    "AMAZON-SES",
    ((SHOP, 1, True, False),),
)

# Mimecast: gzip as the body, with an upper-case type and the file name in the packed bytes.
MIMECAST = Sample(
    compose_body_report(
        "no-reply@au-1.mimecastreport.example",
        gzip.compress(compose_xml("mimecast.example", "157a5fe30ec76f4b")),
        "APPLICATION/GZIP",
        f"mimecast.example!example.org!{BEGIN}!{END}!157a5fe3.xml.gz",
    ),
    "au-1.mimecastreport.example",
    "mimecast.example",
    ((OURS, 4, True, True),),
)

# Fastmail: comments between the elements, softfail.
FASTMAIL = Sample(
    compose_attached_report(
        "reports@fastmaildmarc.example",
        gzip.compress(
            compose_xml(
                "FastMail Pty Ltd",
                "102675056",
                compose_record(
                    STRANGER,
                    1,
                    "fail",
                    "fail",
                    "<!-- the envelope --><spf><domain>example.org</domain><scope>mfrom</scope>"
                    "<result>softfail</result></spf>",
                ),
            )
        ),
        "application/gzip",
        "fastmail.example!example.org!1!2!102675056.xml.gz",
    ),
    "fastmaildmarc.example",
    "FastMail Pty Ltd",
    ((STRANGER, 1, False, False),),
)

# Zoho: result before domain, SPF of a HELO name without a domain; a plain XML file.
ZOHO = Sample(
    compose_attached_report(
        "noreply-dmarc@zoho.example",
        compose_xml(
            "zoho.example",
            "e2cb5d97-dcbb",
            compose_record(
                STRANGER,
                2,
                "fail",
                "fail",
                "<dkim><result>pass</result><domain>news.example</domain><selector>s1</selector></dkim>"
                "<spf><result>none</result><scope>helo</scope></spf>",
            ),
        ),
        "text/xml",
        "zoho.example!example.org!1!2.xml",
    ),
    "zoho.example",
    "zoho.example",
    ((STRANGER, 2, False, False),),
)

# An appliance: upper-case results, empty reasons and domains, zip in a plain text's type.
APPLIANCE = Sample(
    compose_attached_report(
        "postmaster@veeam.example",
        pack_zip(
            compose_xml(
                "veeam.example",
                "1530233361",
                compose_record(
                    OURS,
                    3,
                    "Pass",
                    "FAIL",
                    "<spf><domain></domain><result>none</result></spf>",
                    "<reason><type></type><comment></comment></reason>",
                ),
            )
        ),
        "text/plain",
        "report.txt",
    ),
    "veeam.example",
    "veeam.example",
    ((OURS, 3, True, False),),
)

# RFC 9990 appendix A and B: a namespace, a generator, `pass` as disposition, no pct.
RFC9990 = Sample(
    compose_body_report(
        "report_sender@reporter.example",
        gzip.compress(
            b'<ns:feedback xmlns:ns="urn:ietf:params:xml:ns:dmarc-2.0"><ns:version>1.0</ns:version><ns:report_metadata>'
            b"<ns:org_name>Sample Reporter</ns:org_name><ns:email>report_sender@reporter.example</ns:email>"
            b"<ns:extra_contact_info>...</ns:extra_contact_info><ns:report_id>3v98abbp8ya9n3va8yr8oa3ya</ns:report_id>"
            b"<ns:date_range><ns:begin>1795737600</ns:begin><ns:end>1795823999</ns:end></ns:date_range>"
            b"<ns:generator>Reporter v1.2</ns:generator></ns:report_metadata><ns:policy_published>"
            b"<ns:domain>example.org</ns:domain><ns:p>quarantine</ns:p><ns:sp>none</ns:sp><ns:np>none</ns:np>"
            b"<ns:testing>n</ns:testing><ns:discovery_method>treewalk</ns:discovery_method></ns:policy_published>"
            b"<ns:record><ns:row><ns:source_ip>2001:db8::25</ns:source_ip><ns:count>123</ns:count>"
            b"<ns:policy_evaluated><ns:disposition>pass</ns:disposition><ns:dkim>pass</ns:dkim><ns:spf>fail</ns:spf>"
            b"</ns:policy_evaluated></ns:row><ns:identifiers><ns:envelope_from>example.org</ns:envelope_from>"
            b"<ns:header_from>example.org</ns:header_from></ns:identifiers><ns:auth_results><ns:dkim>"
            b"<ns:domain>example.org</ns:domain><ns:result>pass</ns:result><ns:selector>abc123</ns:selector></ns:dkim>"
            b"<ns:spf><ns:domain>example.org</ns:domain><ns:result>fail</ns:result></ns:spf></ns:auth_results>"
            b"</ns:record></ns:feedback>"
        ),
        "application/gzip",
    ),
    "reporter.example",
    "Sample Reporter",
    (("2001:db8::25", 123, True, False),),
)

# A forwarder that keeps the report as an attached message, after a note of its own.
FORWARDED = Sample(
    b"From: anna@example.org\nTo: postmaster@mail.example.org\nMIME-Version: 1.0\n"
    b'Content-Type: multipart/mixed; boundary="outer"\n\n--outer\nContent-Type: text/plain\n\nFor your information\n'
    b"--outer\nContent-Type: message/rfc822\n\n" + MIMECAST.message.replace(b"\r\n", b"\n") + b"\n--outer--\n",
    "example.org",
    "mimecast.example",
    ((OURS, 4, True, True),),
)
DMARC_SAMPLES = {
    "Google": GOOGLE,
    "Microsoft": MICROSOFT,
    "Yahoo": YAHOO,
    "Amazon SES": AMAZON,
    "Mimecast": MIMECAST,
    "Fastmail": FASTMAIL,
    "Zoho": ZOHO,
    "an appliance": APPLIANCE,
    "RFC 9990": RFC9990,
    "forwarded": FORWARDED,
}


def compose_tls(policies: list[dict[str, object]], **more: object) -> bytes:
    report = {
        "organization-name": "google.example",
        "date-range": {"start-datetime": "2026-11-27T00:00:00Z", "end-datetime": "2026-11-27T23:59:59Z"},
        "contact-info": "smtp-tls-reporting@google.example",
        "report-id": "2026-11-27T00:00:00Z_example.org",
        "policies": policies,
    }
    return json.dumps(report | more, indent=3).encode()


# Google's TLS report: multipart/report, application/tlsrpt+gzip, a success without details.
GOOGLE_TLS = compose_attached_report(
    "noreply-smtp-tls-reporting@google.example",
    gzip.compress(
        compose_tls(
            [
                {
                    "policy": {
                        "policy-type": "sts",
                        "policy-string": ["version: STSv1", "mode: testing", "mx: mail.example.org", "max_age: 86400"],
                        "policy-domain": "example.org",
                        "mx-host": ["mail.example.org"],
                    },
                    "summary": {"total-successful-session-count": 12, "total-failure-session-count": 0},
                }
            ]
        )
    ),
    "application/tlsrpt+gzip",
    "google.example!example.org!1!2!001.json.gz",
    subtype="report",
)
# Mail.ru's: details first, no addresses, the reason as a text.
MAILRU_TLS = compose_body_report(
    "tls_support@corp.mail.example",
    compose_tls(
        [
            {
                "failure-details": [
                    {
                        "failed-session-count": 1,
                        "failure-reason-code": "bad https response code: 404",
                        "result-type": "sts-policy-fetch-error",
                    },
                    {
                        "failed-session-count": 1,
                        "failure-reason-code": "bad https response code: 500",
                        "result-type": "sts-policy-fetch-error",
                        "receiving-mx-hostname": "",
                    },
                ],
                "policy": {"policy-domain": "example.org", "policy-type": "sts"},
                "summary": {"total-failure-session-count": 1, "total-successful-session-count": 0},
            }
        ],
        **{"organization-name": "Mail.example"},
    ),
    "application/tlsrpt+json",
    "report.json",
)
