/* Asks a policy service about messages, over persistent connections, as fast as it answers.

   policy_load unix:PATH|PORT STATE SECONDS CONNECTIONS ACCOUNTS [MESSAGES]

   STATE is the protocol_state at which it counts, END-OF-MESSAGE or DATA. Accounts are n0@example.test and so on, each as often as the others. With MESSAGES it ends after so many.
   Prints requests, seconds, and the 50th and 99th percentile of the time to an answer, in microseconds. */

#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNECTIONS = 1000, LONGEST = 4096, SLOWEST = 1000000 };

static const char *state;
static int sockets[MOST_CONNECTIONS];
static double started[MOST_CONNECTIONS];
static unsigned times[SLOWEST + 1];             /* how many answers took so many microseconds */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int connected(const char *target)
{
    if (strncmp(target, "unix:", 5) == 0) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        strncpy(address.sun_path, target + 5, sizeof address.sun_path - 1);
        int made = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(made, (struct sockaddr *)&address, sizeof address) < 0)
            err(1, "%s", target);
        return made;
    }
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(target)) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int made = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(made, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "port %s", target);
    return made;
}

static void ask(int connection, long number, long accounts)
{
    static char request[LONGEST];
    long account = number % accounts;
    /* As Postfix 3.10 does. Each message has an instance, an account has one address. */
    int length = snprintf(request, sizeof request,
        "request=smtpd_access_policy\nprotocol_state=%s\nprotocol_name=ESMTP\n"
        "client_address=192.0.2.%ld\nclient_name=client.example.net\nclient_port=54322\n"
        "reverse_client_name=client.example.net\nserver_address=198.51.100.10\nserver_port=465\n"
        "helo_name=[192.0.2.%ld]\nsender=n%ld@example.test\nrecipient=r%ld@example.net\nrecipient_count=1\n"
        "queue_id=4dGk%ldz\ninstance=2b1f.6925a1c0.%lx.0\nsize=12345\netrn_domain=\nstress=\n"
        "sasl_method=PLAIN\nsasl_username=n%ld@example.test\nsasl_sender=\nccert_subject=\nccert_issuer=\n"
        "ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n"
        "encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n"
        "compatibility_level=3.10\nmail_version=3.10.5\n\n",
        state, account % 250, account % 250, account, number, number, number, account);
    started[connection] = now();
    if (write(sockets[connection], request, length) != length)
        err(1, "write");
}

static long percentile(long answers, double part)
{
    long seen = 0, at = 0;
    while (at < SLOWEST && (seen += times[at]) < answers * part)
        at++;
    return at;
}

int main(int count, char **words)
{
    if (count < 6)
        errx(2, "usage: %s unix:PATH|PORT STATE SECONDS CONNECTIONS ACCOUNTS [MESSAGES]", words[0]);
    state = words[2];
    double seconds = atof(words[3]);
    int connections = atoi(words[4]), poll = epoll_create1(0);
    long accounts = atol(words[5]), most = count > 6 ? atol(words[6]) : -1, asked = 0, answers = 0;

    for (int one = 0; one < connections; one++) {
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = one };
        sockets[one] = connected(words[1]);
        epoll_ctl(poll, EPOLL_CTL_ADD, sockets[one], &event);
    }
    double begun = now();
    for (int one = 0; one < connections; one++)
        ask(one, asked++, accounts);
    /* Every question gets its answer before the end: policyd-rate-limit dies of connections that close earlier. */
    while (answers < asked) {
        struct epoll_event events[64];
        int ready = epoll_wait(poll, events, 64, 10000);
        if (ready == 0)
            errx(1, "no answer for 10 seconds");
        for (int event = 0; event < ready; event++) {
            char answer[LONGEST];
            int one = events[event].data.u32;
            ssize_t length = read(sockets[one], answer, sizeof answer);
            /* "action=DUNNO": anything else, and it is not the same work that is compared. */
            if (length < 14 || answer[length - 1] != '\n' || strncasecmp(answer, "action=dunno", 12) != 0)
                errx(1, "answer %ld: %.*s", answers, length > 0 ? (int)length : 0, answer);
            long took = (now() - started[one]) * 1e6;
            times[took < SLOWEST ? took : SLOWEST]++;
            answers++;
            if (asked != most && now() < begun + seconds)
                ask(one, asked++, accounts);
        }
    }
    printf("%ld %.3f %ld %ld\n", answers, now() - begun, percentile(answers, 0.5), percentile(answers, 0.99));
    return 0;
}
