# shellcheck shell=bash
# The demonstration: more load at one server than it can take. Read by scripts/lab.

readonly demo_rate=35

lab_demo() {
    local alone balanced name
    tear_down_on_exit
    make_hosts 3

    heading "Without balancer: $demo_rate requests a second to web1, each 1 s of work; it takes $capacity at a time"
    drive 7
    alone=$summary

    heading "With balancer: the same requests, all to web1 as before"
    start_balancers "$capacity" two-choices
    drive 20
    balanced=$summary

    heading "Who served what"
    compare "$alone" "$balanced"

    heading "What the kernel knows on web1 (its maps, by their pins)"
    for name in PEERS LOADS CONNECTIONS COUNTERS; do
        echo "\$ bpftool map dump pinned $state/bpf/web1/$name"
        show_map web1 "$name"
    done
    for name in status peers; do
        heading "\$ balancer $name   # on web1"
        balancer web1 "$name"
    done
    echo
}

# Sends requests to web1 for so many seconds; shows each second, and leaves the end in `summary`.
drive() {
    local line host
    local -A highest=()
    summary=
    printf '%4s' s
    for host in $(servers); do printf '  %22s' "$host: load open served"; done
    printf '  %6s\n' failed
    while read -r line; do
        if [[ $line == *'"second"'* ]]; then show_second "$line"; else summary=$line; fi
    done < <(on client "$bin/load" http://10.77.0.101/work --rate $demo_rate --count $((demo_rate * $1)) --live)
    [[ -n $summary ]] || die "the load generator ended early"
    for host in $(servers); do
        summary=$(jq -c --arg host "$host" --argjson load "${highest[$host]:-0}" '.highest_load[$host] = $load' <<<"$summary")
    done
}

show_second() {
    local host open load
    jq -j '.second | tostring | (" " * (4 - length)) + .' <<<"$1"
    for host in $(servers); do
        open=$(established "$host")
        load=$((open * 100 / capacity))
        ((load <= ${highest[$host]:-0})) || highest[$host]=$load
        printf '  %10s %4s %6s' "$load %" "$open" "$(jq --arg host "$host" '.served[$host] // 0' <<<"$1")"
    done
    printf '  %6s\n' "$(jq '[.failed[]] | add // 0' <<<"$1")"
}

# Connections to a server's nginx, whether or not balancer runs to count them.
established() {
    on "$1" ss -Htn state established '( sport = :80 )' | wc -l
}

compare() {
    local host
    row() { printf '%-34s %26s %26s\n' "$@"; }
    row "" "web1 alone" "with balancer"
    row "requests" "$(jq .sent <<<"$1")" "$(jq .sent <<<"$2")"
    for host in $(servers); do row "served by $host" "$(share "$host" "$1")" "$(share "$host" "$2")"; done
    row "refused or failed" "$(failures "$1")" "$(failures "$2")"
    for host in $(servers); do row "highest load of $host" "$(highest_load "$host" "$1")" "$(highest_load "$host" "$2")"; done
    row "connect, p50 / p99 / max (ms)" "$(times connect_ms "$1")" "$(times connect_ms "$2")"
    row "first byte, p50 / p99 / max (ms)" "$(times first_byte_ms "$1")" "$(times first_byte_ms "$2")"
}

share() {
    jq -r --arg host "$1" '(.served[$host] // 0) as $n | "\($n) (\(100 * $n / .sent | round) %)"' <<<"$2"
}

highest_load() {
    jq -r --arg host "$1" '"\(.highest_load[$host]) %"' <<<"$2"
}

failures() {
    jq -r '([.failed[]] | add // 0) as $n | "\($n) (\(100 * $n / .sent | round) %)"' <<<"$1"
}

times() {
    jq -r --arg key "$1" '.[$key] | [.p50, .p99, .max] | map(if . then . * 100 | round / 100 else "-" end | tostring) | join(" / ")' <<<"$2"
}
