# Reads a mail server of any kind, and changes nothing. `mailkeep inspect` sends this to `sh -s`, as root.
# It prints one JSON object: items of (kind, name, data), name and data in base64. What they mean, `mailkeep` decides.
# With MAILKEEP_TREE, a directory, it reads the files below that instead, and takes commands' output from its `commands/`.

LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin
export LC_ALL PATH
umask 077
T=${MAILKEEP_TREE:-}
MAX_FILE=1048576      # bytes of a configuration file
MAX_DATABASE=67108864 # bytes of an SQLite database
FIND_SECONDS=900

# emit KIND NAME: the data are standard input
emit() {
    printf ',{"kind":"%s","name":"%s","data":"' "$1" "$(printf %s "$2" | base64 | tr -d '\n')"
    base64 | tr -d '\n'
    printf '"}\n'
}

# emit_file PATH [BYTES]
emit_file() {
    [ -f "$T$1" ] && [ -r "$T$1" ] || return 0
    if [ "$(wc -c <"$T$1")" -le "${2:-$MAX_FILE}" ]; then
        emit file "$1" <"$T$1"
    else
        emit large "$1" </dev/null
    fi
}

# emit_files PATTERN…: without keys of TLS, databases of maps, and passwords for other servers
emit_files() {
    for pattern in "$@"; do
        for path in $T$pattern; do
            case $path in
            *.db | *.dir | *.pag | *.lmdb | *.crt | *sasl_passw* | *.dpkg-* | *~) ;;
            "$T"/etc/postfix/*.pem | "$T"/etc/postfix/*.key) ;;
            *) emit_file "${path#"$T"}" ;;
            esac
        done
    done
}

# emit_output NAME COMMAND…: only if the command exists
emit_output() {
    name=$1
    shift
    if [ -n "$T" ]; then
        [ -f "$T/commands/$name" ] && emit command "$name" <"$T/commands/$name"
    elif command -v "$1" >/dev/null; then
        timeout 60 "$@" 2>/dev/null | emit command "$name"
    fi
    return 0
}

# emit_named_files: all files of moderate size whose absolute paths are in the text on standard input
emit_named_files() {
    grep -oE '/[A-Za-z0-9_.@/+-]+' | sort -u | while read -r path; do
        case $path in
        /proc/* | /dev/* | /sys/* | *.pem | *.crt | *.db | *sasl_passw*) ;;
        *) emit_file "$path" 65536 ;;
        esac
    done
}

output_of() {
    name=$1
    shift
    if [ -n "$T" ]; then cat "$T/commands/$name" 2>/dev/null; else "$@" 2>/dev/null; fi
}

read_machine() {
    emit_files /etc/os-release /etc/hostname /etc/mailname /etc/passwd /etc/shadow /etc/group /etc/login.defs
    emit_output hostname hostname -f
    emit_output date date +%s
    emit_output addresses ip -o addr show scope global
    emit_output listening ss -Hlntup
    command -v ss >/dev/null || emit_output listening-by-netstat netstat -lntup
    emit_output containers docker ps --format '{{.Names}}\t{{.Image}}'
    emit_output lastlog lastlog -t 400
    emit_output lastlog2 lastlog2
    emit_output last last -w
    emit_files /etc/crontab '/etc/cron.d/*' '/var/spool/cron/crontabs/*' '/var/spool/cron/*'
    for script in "$T"/etc/cron.hourly/* "$T"/etc/cron.daily/* "$T"/etc/cron.weekly/* "$T"/etc/cron.monthly/*; do
        grep -lE '(^|[^a-z_-])(mail|mailx|mutt|sendmail|msmtp|s-nail|swaks)( |$)' "$script" 2>/dev/null
    done | sed "s|^$T||" | emit command cron-scripts
}

read_postfix() {
    emit_files /etc/aliases '/etc/postfix/*' /etc/exim4/update-exim4.conf.conf
    emit_output postconf postconf -n
    output_of postconf postconf -n | grep -oE '(hash|btree|texthash|lmdb|cdb|dbm|pcre|regexp):/[^ ,]+' |
        cut -d: -f2- | sort -u | while read -r path; do emit_files "$path"; done
}

read_dovecot() {
    emit_output doveconf doveconf -n
    output_of doveconf doveconf -n | grep -E '(args|passwd_file_path|sqlite_path) = ' | grep -oE '/[^ %]+' |
        while read -r path; do read_user_database "$path"; done
    for path in /etc/dovecot/users /etc/dovecot/passwd /etc/dovecot/dovecot-sql.conf.ext /home/user-data/mail/users.sqlite; do
        read_user_database "$path"
    done
}

# Its password for an SQL server stays there.
read_user_database() {
    [ -f "$T$1" ] || return 0
    case $1 in
    *sql*.conf* | *sql*.ext)
        sed 's/password=[^ ]*/password=/' "$T$1" | emit file "$1"
        sed -n 's/^ *connect *= *\(\/[^ ]*\).*/\1/p' "$T$1" | while read -r path; do emit_file "$path" $MAX_DATABASE; done
        ;;
    *) emit_file "$1" $MAX_DATABASE ;;
    esac
    emit_file "$1-wal" $MAX_DATABASE
}

# read_sql NAME COMMAND…: the command runs the SQL that is its last argument
read_sql() {
    origin=$1
    shift
    tables="'mailbox','alias','alias_domain','domain','forwardings','virtual_users','virtual_aliases','virtual_domains'"
    timeout 60 "$@" "SELECT table_schema, table_name FROM information_schema.tables WHERE table_name IN ($tables)" 2>/dev/null |
        sed 1d | while read -r database table; do
        timeout 120 "$@" "SET SESSION TRANSACTION READ ONLY; SELECT * FROM \`$database\`.\`$table\` LIMIT 50000" 2>/dev/null </dev/null |
            emit table "$origin/$database/$table"
    done
}

read_databases() {
    if [ -n "$T" ]; then
        for path in "$T"/commands/tables/*/*/*; do
            [ -f "$path" ] && emit table "${path#"$T/commands/tables/"}" <"$path"
        done
        emit_output redis-DKIM_SELECTORS :
        emit_output redis-DKIM_PRIV_KEYS :
        return 0
    fi
    for client in mariadb mysql; do
        command -v $client >/dev/null && { read_sql local $client --batch -e; break; }
    done
    command -v docker >/dev/null || return 0
    for container in $(docker ps --format '{{.Names}}' 2>/dev/null | grep -E 'mysql|mariadb'); do
        # The password is the container's own, and stays in its environment.
        # shellcheck disable=SC2016
        read_sql "$container" docker exec "$container" sh -c \
            'export MYSQL_PWD="${MYSQL_ROOT_PASSWORD:-$MARIADB_ROOT_PASSWORD}"; client=$(command -v mariadb || echo mysql); exec $client -uroot --batch -e "$0"'
    done
    for container in $(docker ps --format '{{.Names}}' 2>/dev/null | grep -E 'redis|valkey'); do
        # shellcheck disable=SC2016
        for key in DKIM_SELECTORS DKIM_PRIV_KEYS; do
            timeout 20 docker exec "$container" sh -c \
                'export REDISCLI_AUTH="$REDISPASS"; exec redis-cli --json HGETALL "$0"' $key 2>/dev/null </dev/null |
                emit command "redis-$key"
        done
    done
}

# Directories of docker-mailserver's configuration, on the host or inside of its container.
list_dms_directories() {
    for top in /root /opt /srv /home /docker /var/docker /data; do
        [ -d "$T$top" ] && find "$T$top" -xdev -maxdepth 6 -name postfix-accounts.cf -type f 2>/dev/null
    done | sed "s|^$T||; s|/postfix-accounts.cf$||"
    [ -f "$T/tmp/docker-mailserver/postfix-accounts.cf" ] && echo /tmp/docker-mailserver
    return 0
}

read_docker_mailserver() {
    list_dms_directories | while read -r directory; do
        emit_files "$directory/postfix-accounts.cf" "$directory/postfix-virtual.cf" "$directory/postfix-aliases.cf" \
            "$directory/dovecot-quotas.cf" "$directory/opendkim/KeyTable" "$directory/opendkim/SigningTable" \
            "$directory/opendkim/keys/*/*" "$directory/rspamd/dkim/*" "$directory/rspamd/override.d/dkim_signing.conf"
    done
}

read_dkim() {
    emit_files /etc/opendkim.conf '/etc/opendkim/*' '/etc/opendkim/keys/*' '/etc/opendkim/keys/*/*' '/etc/dkimkeys/*' \
        '/etc/rspamd/local.d/dkim_signing.conf' '/etc/rspamd/override.d/dkim_signing.conf' '/etc/rspamd/*.map' \
        '/var/lib/rspamd/dkim/*' '/var/lib/rspamd/dkim/*/*' '/etc/amavis/conf.d/*' /etc/amavisd/amavisd.conf '/var/lib/dkim/*' \
        '/home/user-data/mail/dkim/*'
    for path in /etc/opendkim.conf /etc/opendkim/KeyTable /etc/opendkim/key.table /etc/rspamd/local.d/dkim_signing.conf \
        /etc/rspamd/override.d/dkim_signing.conf /etc/amavis/conf.d/50-user /etc/amavisd/amavisd.conf; do
        [ -f "$T$path" ] && emit_named_files <"$T$path"
    done
    # The tables may be anywhere, and their keys too.
    sed -n 's/^ *\(KeyTable\|SigningTable\) *[a-z:]*\(\/[^ ]*\).*/\2/p' "$T/etc/opendkim.conf" 2>/dev/null |
        while read -r path; do [ -f "$T$path" ] && emit_named_files <"$T$path"; done
}

# Users' homes: NAME TAB HOME
list_homes() {
    awk -F: '$3 >= 500 && $3 != 65534 && $6 ~ /^\/./ { print $1 "\t" $6 }' "$T/etc/passwd" 2>/dev/null
}

list_mail_roots() {
    printf '%s\n' /var/mail /var/spool/mail /var/vmail /srv/vmail /srv/mail /home/vmail /var/lib/vmail \
        /home/user-data/mail/mailboxes /home/user-data/mail/sieve /var/lib/docker/volumes/mailcowdockerized_vmail-vol-1/_data
    list_homes | cut -f2 | while read -r home; do
        for name in Maildir .maildir mail Mail mdbox sdbox .dovecot.sieve sieve; do
            [ -e "$T$home/$name" ] && echo "$home/$name"
        done
    done
    list_dms_directories | sed 's|/config$|/mail-data|'
    # Up to the first variable, and no directory that holds more than mail.
    {
        output_of doveconf doveconf -n | grep -E '(mail_location|mail_path|mail_home|mail_inbox_path|args|home) = '
        output_of postconf postconf -n | grep -E '^virtual_mailbox_base = '
    } | grep -oE '/[^ %:]+' | sed 's|/$||' | grep -vE '^/(home|var|srv|root|etc|opt|usr|data|mnt)?$|^/(etc|usr|proc|dev)/'
    [ -n "$T" ] || for container in $(docker ps -q 2>/dev/null); do
        docker inspect --format '{{range .Mounts}}{{.Source}} {{.Destination}}{{println}}{{end}}' "$container" 2>/dev/null |
            sed -n 's|^\(/[^ ]*\) /var/\(mail\|vmail\)$|\1|p'
    done
}

# Lines of directory, messages, bytes, time of the newest; of a folder without messages only the directory.
read_maildirs() {
    timeout $FIND_SECONDS find "$T$1" -xdev \( -type d -name cur -printf '%p\n' \) -o \
        \( -type f \( -path '*/cur/*' -o -path '*/new/*' -o -path '*/dbox-Mails/u.*' -o -path '*/storage/m.*' \) -printf '%h\t%s\t%T@\n' \) \
        2>/dev/null | awk -F'\t' -v skip=$((${#T} + 1)) '
        { count[$1] += 0 }
        NF == 3 { count[$1]++; size[$1] += $2; if ($3 > newest[$1]) newest[$1] = $3 }
        END { for (path in count) printf "%s\t%d\t%.0f\t%d\n", substr(path, skip), count[path], size[path], newest[path] }'
}

# The same of files in mbox format: the spool, and what is in users' mail directories.
read_mboxes() {
    {
        for spool in /var/mail /var/spool/mail; do # one is often a link to the other
            [ -L "$T$spool" ] || find "$T$spool" -maxdepth 1 -type f 2>/dev/null
        done
        list_homes | cut -f2 | while read -r home; do
            find "$T$home/mbox" "$T$home/mail" "$T$home/Mail" -xdev -type f -size +0 ! -path '*/cur/*' ! -path '*/new/*' 2>/dev/null
        done
    } | while read -r path; do
        [ "$(head -c 5 "$path" 2>/dev/null)" = 'From ' ] || continue
        printf '%s\t%s\t%s\n' "${path#"$T"}" "$(timeout 60 grep -ac '^From ' "$path")" "$(stat -L -c '%s	%Y' "$path")"
    done
}

read_mail() {
    roots=$(list_mail_roots | sort -u | while read -r root; do [ -d "$T$root" ] && (cd "$T$root" && pwd -P); done | sort -u)
    printf '%s\n' "$roots" | while read -r root; do
        [ -n "$root" ] && read_maildirs "${root#"$T"}"
    done | emit command maildirs
    read_mboxes | emit command mboxes
    {
        printf '%s\n' "$roots" | sed "s|^$T||"
        list_homes | cut -f2 | sed 's|$|/.dovecot.sieve|'
        printf '%s\n' /var/lib/dovecot/sieve /etc/dovecot/sieve
    } | while read -r root; do
        [ -n "$root" ] && find -H "$T$root" -xdev -name '*.sieve' \( -type f -o -type l \) -printf '%p\t%s\n' 2>/dev/null
    done | sort -u | sed "s|^$T||" | emit command sieve
    list_homes | while read -r user home; do
        emit_files "$home/.forward"
        [ -f "$T$home/.procmailrc" ] && emit procmail "$user" </dev/null
    done
}

# Lines of user, number of logins and the beginning of the last one's line in the log.
read_mail_logins() {
    {
        for path in "$T"/var/log/mail.log.*.gz "$T"/var/log/maillog-*.gz; do [ -f "$path" ] && zcat "$path"; done
        for path in "$T"/var/log/maillog-* "$T"/var/log/mail.log.1 "$T"/var/log/maillog "$T"/var/log/mail.log "$T"/var/log/dovecot*.log; do
            case $path in *.gz) ;; *) [ -f "$path" ] && cat "$path" ;; esac
        done
        [ -n "$T" ] || timeout 120 journalctl -q --no-pager -o short-iso --since '-90 days' --facility=mail
    } 2>/dev/null | awk '
        /authentication failed/ { next }
        match($0, /(Login|Logged in): user=<[^>]+>/) { # of Dovecot 2.3, and of 2.4
            user = substr($0, RSTART, RLENGTH); sub(/^[^<]*</, "", user); sub(/>$/, "", user)
            count[user]++; last[user] = substr($0, 1, 25); next
        }
        match($0, /sasl_username=[^, ]+/) { user = substr($0, RSTART + 14, RLENGTH - 14); count[user]++; last[user] = substr($0, 1, 25) }
        END { for (user in count) printf "%s\t%d\t%s\n", user, count[user], last[user] }' | emit command mail-logins
}

main() {
    renice -n 19 -p $$ >/dev/null 2>&1
    ionice -c 3 -p $$ >/dev/null 2>&1
    printf '{"format":1,"items":[{"kind":"start","name":"","data":""}\n'
    read_machine
    read_postfix
    read_dovecot
    read_databases
    read_docker_mailserver
    read_dkim
    read_mail
    read_mail_logins
    printf ',{"kind":"end","name":"","data":""}]}\n'
}

# A command that read standard input would read the rest of this program.
main </dev/null
