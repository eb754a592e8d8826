# shellcheck shell=bash
# Hosts of the lab: a switch, servers with nginx, a client. Read by scripts/lab.

make_hosts() {
    local servers=$1 host i
    tear_down
    mkdir -p "$state/www"
    make_pages
    make_switch
    plug client
    for ((i = 1; i <= servers; i++)); do
        host=web$i
        plug "$host"
        start_nginx "$host"
    done
    echo "ok: $servers servers with nginx, a client, and a switch between them"
}

# Ends what runs in the lab, then removes it. Works on what is there, be it a whole lab or not.
tear_down() {
    local file name
    for file in "$state"/*.pid; do
        [[ ! -e $file ]] || end "$(basename "$file" .pid)"
    done
    # What a daemon left that was killed: its undo journal would otherwise outlive the namespace.
    for name in $(servers); do
        [[ ! -e $state/bpf/$name/PEERS ]] ||
            on "$name" "$bin/balancer" detach eth0 --control "$state/$name.sock" --pin-dir "$state/bpf/$name" || true
    done
    while mountpoint -q "$state/bpf" 2>/dev/null; do umount "$state/bpf"; done
    for name in $(namespaces); do ip netns del "$name"; done
    rm -rf "$state"
    rmdir --ignore-fail-on-non-empty "${state%/*}" 2>/dev/null || true
}

namespaces() {
    ip netns list | cut -d' ' -f1 | grep -xE "$LAB-(switch|client|web[0-9]+)" || true
}

# The servers, in the order in which they were made.
servers() {
    namespaces | sed -n "s/^$LAB-\(web.*\)/\1/p" | sort -V
}

address() {
    if [[ $1 == client ]]; then echo 10.77.0.1; else echo "10.77.0.$((100 + ${1#web}))"; fi
}

# Runs a command on a host. `ip netns exec` would hide /sys/fs and so the pinned maps.
on() {
    nsenter --net="/run/netns/$LAB-$1" -- "${@:2}"
}

make_switch() {
    local file
    ip netns add "$LAB-switch"
    # A bridge that snoops multicast would drop the reports of servers whose membership it missed.
    ip -n "$LAB-switch" link add bridge type bridge stp_state 0 mcast_snooping 0
    ip -n "$LAB-switch" link set bridge up
    for file in iptables ip6tables arptables; do
        on switch sysctl -q -e -w "net.bridge.bridge-nf-call-$file=0" 2>/dev/null || true # only if br_netfilter is loaded
    done
}

# Makes a host with its eth0 in the switch.
plug() {
    local host=$1 namespace=$LAB-$1
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
    ip -n "$LAB-switch" link add "$host" type veth peer name eth0 netns "$namespace"
    # veth drops what an XDP program sends on unless the other end does GRO, and what it sends on is without the sender's
    # note that the checksum is still to be filled in.
    on switch ethtool -K "$host" gro on tx off >/dev/null
    on "$host" ethtool -K eth0 tx off >/dev/null
    ip -n "$LAB-switch" link set "$host" master bridge up
    ip -n "$namespace" addr add "$(address "$host")/24" dev eth0
    ip -n "$namespace" link set eth0 up
}

# nginx sends 10 KB of these a second, the first 10 KB at once.
make_pages() {
    local seconds
    for seconds in 1 2 5 10 20 60; do
        head -c $(((seconds + 1) * 10240 - 1024)) /dev/zero | tr '\0' '.' >"$state/www/$seconds"
    done
}

start_nginx() {
    local host=$1
    mkdir -p "$state/www/$host"
    printf '%-1023s\n' "This is $host." >"$state/www/$host/index.html"
    cat >"$state/nginx-$host.conf" <<END
daemon off;
worker_processes 1;
pid $state/nginx-$host.run;
events {
    worker_connections 4096;
}
http {
    access_log off;
    default_type text/plain;
    limit_rate 10k;
    limit_conn_zone \$server_port zone=work:64k;
    server {
        listen 80 backlog=4096;
        add_header X-Server $host always;
        location / {
            root $state/www/$host;
            limit_rate 0;
        }
        location = /work {
            alias $state/www/1;
            limit_conn work $capacity;
        }
        location /hold/ {
            alias $state/www/;
        }
    }
}
END
    start "nginx-$host" "$host" nginx -c "$state/nginx-$host.conf" -e stderr
    wait_for 10 "nginx-$host" "answer" on "$host" curl -sf -o /dev/null "http://$(address "$host")/"
}

# Starts a program that runs on a host until it is ended.
start() {
    local name=$1 host=$2
    # A session of its own: Ctrl-C is for the lab, which then ends it in due order.
    setsid nsenter --net="/run/netns/$LAB-$host" -- "${@:3}" >"$state/$name.log" 2>&1 </dev/null &
    # With its namespace, since the number alone may be another process's one day.
    echo "$! $(stat -Lc %i "/run/netns/$LAB-$host")" >"$state/$name.pid"
}

runs() {
    local pid namespace
    read -r pid namespace 2>/dev/null <"$state/$1.pid" && [[ $(stat -Lc %i "/proc/$pid/ns/net" 2>/dev/null) == "$namespace" ]]
}

up_or_down() {
    if runs "$1"; then echo up; else echo down; fi
}

end() {
    local name=$1 pid i
    read -r pid _ <"$state/$name.pid"
    if runs "$name"; then
        kill "$pid" 2>/dev/null || true
        for ((i = 0; i < 50; i++)); do
            runs "$name" || break
            sleep 0.1
        done
        ! runs "$name" || kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$state/$name.pid"
}

# Waits until a command succeeds, as long as the program that it waits for runs.
wait_for() {
    local seconds=$1 name=$2 what=$3 deadline=$((SECONDS + $1))
    until "${@:4}" >/dev/null 2>&1; do
        if ! runs "$name" && ! { sleep 0.2 && runs "$name"; }; then
            tail -n 20 "$state/$name.log" >&2
            die "$name ended"
        elif ((SECONDS > deadline)); then
            tail -n 20 "$state/$name.log" >&2
            die "$name runs, but doesn't $what after $seconds s"
        fi
        sleep 0.1
    done
}
