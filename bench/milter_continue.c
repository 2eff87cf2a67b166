/* A milter that asks Postfix for what the guard's asks, and lets everything pass: the cost of asking a milter at all.

   milter_continue PATH */

#include <arpa/inet.h>
#include <err.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PROTOCOL 0x87c3 /* as mailkeep_server/guard/milter.py */

static void answer(int connection, const char *data, uint32_t length)
{
    char packet[64];
    uint32_t size = htonl(length);
    memcpy(packet, &size, 4);
    memcpy(packet + 4, data, length);
    if (write(connection, packet, 4 + length) < 0)
        warn("write");
}

static void answer_command(int connection, char command)
{
    const uint32_t terms[] = { htonl(6), htonl(0x20), htonl(PROTOCOL) }; /* version, actions, what is left out */
    char offer[1 + sizeof terms] = "O";
    memcpy(offer + 1, terms, sizeof terms);
    if (command == 'O')
        answer(connection, offer, sizeof offer);
    else if (command == 'M' || command == 'E')
        answer(connection, "c", 1);
    else if (command == 'B')
        answer(connection, "s", 1);
}

static void *serve(void *number)
{
    int connection = (int)(intptr_t)number;
    static __thread char buffer[1 << 18];
    size_t filled = 0;
    for (ssize_t got; (got = read(connection, buffer + filled, sizeof buffer - filled)) > 0;) {
        size_t start = 0;
        for (uint32_t length; filled + got - start >= 5; start += 4 + length) {
            memcpy(&length, buffer + start, 4);
            if ((length = ntohl(length)) > filled + got - start - 4)
                break;
            answer_command(connection, buffer[start + 4]);
        }
        filled += got - start;
        memmove(buffer, buffer + start, filled);
    }
    close(connection);
    return NULL;
}

int main(int count, char **arguments)
{
    if (count != 2)
        errx(2, "usage: milter_continue PATH");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, arguments[1], sizeof address.sun_path - 1);
    unlink(arguments[1]);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    umask(0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 512) < 0)
        err(1, "%s", arguments[1]);
    for (int connection; (connection = accept(listener, NULL, NULL)) >= 0;) {
        pthread_t thread;
        pthread_create(&thread, NULL, serve, (void *)(intptr_t)connection);
        pthread_detach(thread);
    }
    err(1, "accept");
}
