# shellcheck shell=bash
# balancer on the servers of the lab, and what it says. Read by scripts/lab.

# Starts balancer on each server, in order, so that each server knows the others in that order.
start_balancers() {
    local full=$1 policy=$2 host started=0
    mkdir -p "$state/bpf"
    mount -t bpf bpf "$state/bpf"
    [[ -e $state/cluster.key ]] || "$bin/balancer" keygen "$state/cluster.key" >/dev/null
    # The servers of the lab share one machine's CPU: it says nothing about any one of them.
    cat >"$state/balancer.toml" <<END
[levels]
policy = "$policy"

[load]
cpu = "0%"
run_queue = "0%"
memory_pressure = "0%"

[[service]]
name = "www"
ports = ["80/tcp"]
capacity = $full
END
    for host in $(servers); do
        start "balancer-$host" "$host" "$bin/balancer" attach eth0 --config "$state/balancer.toml" --name "$host" \
            --control "$state/$host.sock" --pin-dir "$state/bpf/$host" --key "$state/cluster.key" --mode native
        wait_for 15 "balancer-$host" "answer" balancer "$host" status --json
        wait_for 15 balancer-web1 "see $host" sees web1 "$started"
        started=$((started + 1))
    done
    for host in $(servers); do
        wait_for 15 "balancer-$host" "see all others" sees "$host" $((started - 1))
    done
    echo "ok: balancer on each server, and each sees the others; 100 % is $full connections"
}

# A command of balancer to a server's daemon.
balancer() {
    "$bin/balancer" "${@:2}" --control "$state/$1.sock"
}

sees() {
    (($(online "$1") >= $2))
}

# How many other servers a server sees.
online() {
    balancer "$1" peers --json 2>/dev/null |
        jq --arg name "$1" '[.[] | select(.name != $name and .status == "online")] | length' || echo 0
}

# A server's connections, open or in the making.
open_connections() {
    service_field "$1" '.connections + .pending'
}

# In percent of the capacity.
load_of() {
    service_field "$1" '.load / 100 | round'
}

# What a server says of its only service; 0 without a daemon.
service_field() {
    balancer "$1" status --json 2>/dev/null | jq ".services[0] | $2" || echo 0
}

# The entries of a pinned map, one JSON object a line, summed over the CPUs where each CPU has its own.
entries() {
    # jq would round numbers that don't fit a double.
    bpftool --json map dump pinned "$state/bpf/$1/$2" | sed -E 's/:([0-9]{16,})/:"\1"/g' | jq -c '
        .[].formatted
        | {key, value: (.value // reduce (.values[].value | to_entries[]) as $field ({}; .[$field.key] += $field.value))}'
}

# A map's entries that aren't empty, and of these what isn't zero.
show_map() {
    entries "$1" "$2" | jq -r '
        def in_use: if type == "array" or type == "object" then any(.[]; in_use) else . != 0 end;
        def hex: "0123456789abcdef" as $digits | "\($digits[. / 16 | floor:][:1])\($digits[. % 16:][:1])";
        def text: if type == "array" then map(hex) | join(":") else tostring end;
        select(.value | in_use)
        | "[\(.key)] " + ([.value | to_entries[] | select(.value | in_use) | "\(.key)=\(.value | text)"] | join(" "))' |
        fold -s -w 96 | sed 's/^/  /; s/^  \([^[]\)/      \1/'
}
