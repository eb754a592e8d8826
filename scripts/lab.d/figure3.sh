# shellcheck shell=bash
# Figure 3 of WO 99/18534, replayed. Read by scripts/lab.
#
# The patent's servers 7, 9 and 10 are web1, web2 and web3. Requests 1 to 5 arrive at server 7 and request 6 at server 10;
# 'server 7 processes requests 1 and 2, server 9 processes requests 3 and 5, and server 10 processes requests 4 and 6'.
# That is what its rule gives where three requests fill a server and each lasts: 0 % and 33 % are not above the first
# level of 50 %, 67 % is; and of two servers with the same load the one that was known first is taken.

lab_figure3() {
    local i host before by verdict=0
    local -r arrivals=(web1 web1 web1 web1 web1 web3) expected=(web1 web1 web2 web3 web2 web3)
    local -rA number=([web1]=7 [web2]=9 [web3]=10)
    tear_down_on_exit
    make_hosts 3
    start_balancers 3 least-load

    heading "Figure 3 of WO 99/18534"
    printf '%-8s %-17s %10s   %-17s %s\n' request "arrives at" "load there" "processed by" "in the patent"
    for i in "${!arrivals[@]}"; do
        host=${arrivals[i]}
        before=$(load_of "$host")
        by=$(hold_request $((i + 1)) "$host")
        printf '%-8s %-17s %10s   %-17s server %-4s %s\n' $((i + 1)) "server ${number[$host]} ($host)" "$before %" \
            "server ${number[$by]} ($by)" "${number[${expected[i]}]}" "$([[ $by == "${expected[i]}" ]] || echo "<- differs")"
        [[ $by == "${expected[i]}" ]] || verdict=1
        sleep 1.5 # three periods: all have reported it
    done

    echo
    if ((verdict)); then echo "This is not the patent's result."; else echo "This is the patent's result."; fi
    return $verdict
}

# Sends a request that stays open until the lab is down. Prints the server that processes it.
hold_request() {
    local name=request$1 head=$state/request$1.head deadline=$((SECONDS + 10)) by
    start "$name-client" client curl -s -D "$head" -o /dev/null "http://$(address "$2")/hold/60"
    until by=$(sed -n 's/^X-Server: \(web[0-9]*\).*/\1/p' "$head" 2>/dev/null) && [[ -n $by ]]; do
        ((SECONDS < deadline)) || die "request $1 got no answer in 10 s"
        sleep 0.05
    done
    echo "$by"
}
