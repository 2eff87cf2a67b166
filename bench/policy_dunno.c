/* A policy service that answers DUNNO to everything, at once: what Postfix loses by asking at all.

   policy_dunno PATH */

#include <err.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **words)
{
    if (count != 2)
        errx(2, "usage: policy_dunno PATH");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
    unlink(words[1]);
    int listening = socket(AF_UNIX, SOCK_STREAM, 0), polled = epoll_create1(0);
    umask(0);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) < 0 || listen(listening, 512) < 0)
        err(1, "%s", words[1]);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listening };
    epoll_ctl(polled, EPOLL_CTL_ADD, listening, &event);
    while (epoll_wait(polled, &event, 1, -1) == 1) {
        static char request[65536];
        static const char answer[] = "action=DUNNO\n\n";
        int one = event.data.fd;
        if (one == listening) {
            event.data.fd = accept(listening, NULL, NULL);
            epoll_ctl(polled, EPOLL_CTL_ADD, event.data.fd, &event);
            continue;
        }
        ssize_t length = read(one, request, sizeof request);
        if (length <= 0)
            close(one);
        else if (length >= 2 && memcmp(request + length - 2, "\n\n", 2) == 0 &&     /* Postfix asks and waits */
                 write(one, answer, sizeof answer - 1) < 0)
            close(one);
    }
    err(1, "epoll_wait");
}
