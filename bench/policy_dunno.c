/* A policy service that answers DUNNO to every request: the cost of asking a policy service at all.

   policy_dunno PATH */

#include <err.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count != 2)
        errx(2, "usage: policy_dunno PATH");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, arguments[1], sizeof address.sun_path - 1);
    unlink(arguments[1]);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), epoll = epoll_create1(0);
    umask(0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 512) < 0)
        err(1, "%s", arguments[1]);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listener };
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    while (epoll_wait(epoll, &event, 1, -1) == 1) {
        static char request[65536];
        static const char answer[] = "action=DUNNO\n\n";
        int connection = event.data.fd;
        if (connection == listener) {
            event.data.fd = accept(listener, NULL, NULL);
            epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event);
            continue;
        }
        ssize_t length = read(connection, request, sizeof request);
        if (length <= 0)
            close(connection);
        else if (length >= 2 && memcmp(request + length - 2, "\n\n", 2) == 0 &&     /* end of the request */
                 write(connection, answer, sizeof answer - 1) < 0)
            close(connection);
    }
    err(1, "epoll_wait");
}
