/* Sends requests to a policy service over persistent connections, each as soon as the one before is answered.

   policy_load unix:PATH|PORT STATE SECONDS CONNECTIONS ACCOUNTS [MESSAGES]

   STATE is the protocol_state at which the service counts, END-OF-MESSAGE or DATA. The accounts, n0@example.test and
   so on, take turns. Ends after SECONDS, or after MESSAGES requests.
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

enum { MAX_CONNECTIONS = 1000, MAX_LENGTH = 4096, MAX_MICROSECONDS = 1000000 };

static const char *state;
static int sockets[MAX_CONNECTIONS];
static double started[MAX_CONNECTIONS];
static unsigned answers_by_time[MAX_MICROSECONDS + 1]; /* by microseconds; the last entry counts all slower ones */

static double read_clock(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int open_connection(const char *target)
{
    if (strncmp(target, "unix:", 5) == 0) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        strncpy(address.sun_path, target + 5, sizeof address.sun_path - 1);
        int connection = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(connection, (struct sockaddr *)&address, sizeof address) < 0)
            err(1, "%s", target);
        return connection;
    }
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(target)) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "port %s", target);
    return connection;
}

static void send_request(int connection, long number, long accounts)
{
    static char request[MAX_LENGTH];
    long account = number % accounts;
    /* The attributes of Postfix 3.10. Each message has an instance of its own; an account has a single address. */
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
    started[connection] = read_clock();
    if (write(sockets[connection], request, length) != length)
        err(1, "write");
}

static long percentile(long answers, double fraction)
{
    long counted = 0, at = 0;
    while (at < MAX_MICROSECONDS && (counted += answers_by_time[at]) < answers * fraction)
        at++;
    return at;
}

int main(int count, char **arguments)
{
    if (count < 6)
        errx(2, "usage: %s unix:PATH|PORT STATE SECONDS CONNECTIONS ACCOUNTS [MESSAGES]", arguments[0]);
    state = arguments[2];
    double seconds = atof(arguments[3]);
    int connections = atoi(arguments[4]), epoll = epoll_create1(0);
    long accounts = atol(arguments[5]), max_requests = count > 6 ? atol(arguments[6]) : -1, sent = 0, answers = 0;

    for (int connection = 0; connection < connections; connection++) {
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = connection };
        sockets[connection] = open_connection(arguments[1]);
        epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[connection], &event);
    }
    double start = read_clock();
    for (int connection = 0; connection < connections; connection++)
        send_request(connection, sent++, accounts);
    /* Wait for every answer: policyd-rate-limit crashes when a connection closes before its answer. */
    while (answers < sent) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, 10000);
        if (ready == 0)
            errx(1, "no answer for 10 seconds");
        for (int event = 0; event < ready; event++) {
            char answer[MAX_LENGTH];
            int connection = events[event].data.u32;
            ssize_t length = read(sockets[connection], answer, sizeof answer);
            /* With any other answer than DUNNO, the services would not do the same work. */
            if (length < 14 || answer[length - 1] != '\n' || strncasecmp(answer, "action=dunno", 12) != 0)
                errx(1, "answer %ld: %.*s", answers, length > 0 ? (int)length : 0, answer);
            long took = (read_clock() - started[connection]) * 1e6;
            answers_by_time[took < MAX_MICROSECONDS ? took : MAX_MICROSECONDS]++;
            answers++;
            if (sent != max_requests && read_clock() < start + seconds)
                send_request(connection, sent++, accounts);
        }
    }
    printf("%ld %.3f %ld %ld\n", answers, read_clock() - start, percentile(answers, 0.5), percentile(answers, 0.99));
    return 0;
}
