#!/bin/sh
# mdmw doctor --guest: why does this machine not get its metadata?
#
# POSIX shell, for dash, busybox and bash; needs no name server and changes nothing. Run it as root inside
# the guest. It looks in the order in which things depend on each other: the first FAULT is the cause.
# Exit status: 0 nothing is wrong, 1 a fault.

ADDRESS=169.254.169.254
ADDRESS_V6=fe80::a9fe:a9fe
WAIT=5
faults=0

have() { command -v "$1" >/dev/null 2>&1; }
good() { printf 'good   %s\n' "$1"; }
note() { printf 'note   %s\n' "$1"; }
fault() {
    printf 'FAULT  %s\n' "$1"
    shift
    for line in "$@"; do printf '       %s\n' "$line"; done
    faults=$((faults + 1))
}

# Fetch URL: its body to standard output; proxies of the environment are not asked. Status 0: it is there.
fetch() {
    if have curl; then
        curl -gfsS --noproxy '*' --connect-timeout "$WAIT" -m "$WAIT" "$1" 2>&1
    elif have wget; then
        # busybox is built with and without options; those that this one has are in its help
        help=$(wget --help 2>&1)
        options="-q -O -"
        limit=
        case $help in *--no-proxy*) options="$options --no-proxy -t 1" ;; *) options="$options -Y off" ;; esac
        case $help in
        *-T*) options="$options -T $WAIT" ;;
        *) if timeout 1 true 2>/dev/null; then limit="timeout $WAIT"; fi ;;
        esac
        $limit wget $options "$1" 2>&1
    else
        echo "neither curl nor wget is here"
        return 127
    fi
}

# --- an address and a route -----------------------------------------------------------------

v4=
if have ip; then
    v4=$(ip -4 addr show scope global 2>/dev/null | sed -n 's/^ *inet \([0-9.]*\).*/\1/p' | head -n 1)
    if [ -n "$v4" ]; then
        good "this machine has the address $v4"
    else
        fault "no network card has an IPv4 address" \
            "DHCP did not answer, or was not asked: ip addr; then  udhcpc -i eth0  or  dhclient -v eth0" \
            "Without IPv4 metadata can come over IPv6 link-local only; see below."
    fi
    route=$(ip -4 route get "$ADDRESS" 2>/dev/null | head -n 1)
    case $route in
    '') [ -n "$v4" ] && fault "there is no route to $ADDRESS" \
        "DHCP must tell one (option 121, on Windows 249): does the client ask for it?" \
        "By hand, through the DHCP server's address:  ip route add $ADDRESS/32 via DHCP-SERVER" ;;
    local*) fault "$ADDRESS is an address of this machine itself" "ip addr del $ADDRESS/32 dev lo" ;;
    *) good "route: $route" ;;
    esac
else
    note "there is no command ip: addresses and routes are not looked at"
fi

# --- is it there? ---------------------------------------------------------------------------

answer=$(fetch "http://$ADDRESS/openstack/latest/meta_data.json")
status=$?
case $status:$answer in
0:*'"uuid"'*)
    good "http://$ADDRESS answers: $(printf '%s' "$answer" | sed -n 's/.*"uuid": *"\([^"]*\)".*/instance \1/p')"
    works=yes
    ;;
127:*)
    note "$answer: nothing can be fetched"
    works=unknown
    ;;
*:*404*) fault "http://$ADDRESS answers 404: it does not know this machine by its address ${v4:-}" \
    "Is that the address of the port? On the node:  mdmw doctor --address ${v4:-IP}" ;;
*:*403*) fault "http://$ADDRESS answers 403: the agent and Nova have different secrets" "On the node:  mdmw doctor" ;;
*:*503* | *:*502* | *:*504* | *:*500*)
    fault "http://$ADDRESS has a fault behind it: $(printf '%s' "$answer" | head -n 1)" "On the node:  mdmw doctor" ;;
0:*) fault "something else than metadata answers at http://$ADDRESS" "Is a proxy or a captive portal in between?" ;;
*) fault "http://$ADDRESS cannot be reached: $(printf '%s' "$answer" | head -n 1)" \
    "Does the way lead to the node? On the node:  mdmw doctor --address ${v4:-IP}" ;;
esac

# --- proxies --------------------------------------------------------------------------------

for name in http_proxy HTTP_PROXY all_proxy ALL_PROXY; do
    eval "proxy=\${$name:-}"
    # Who it is may have a password in it, and is not printed.
    if [ -n "$proxy" ]; then
        case ",${no_proxy:-}${NO_PROXY:+,$NO_PROXY}," in
        *"$ADDRESS"* | *,169.254.0.0/16,* | *,\*,*) good "$name is set, and no_proxy has $ADDRESS" ;;
        *) fault "$name is set, and no_proxy does not have $ADDRESS: programs ask the proxy for metadata" \
            "export no_proxy=\"\${no_proxy:+\$no_proxy,}$ADDRESS\"" ;;
        esac
    fi
done

# --- IPv6 -----------------------------------------------------------------------------------

if have ip; then
    for card in $(ip -6 addr show scope link 2>/dev/null | sed -n 's/^[0-9]*: \([^:@]*\)[:@].*/\1/p'); do
        if [ "$card" != lo ]; then
            if have curl && fetch "http://[$ADDRESS_V6%25$card]/openstack" >/dev/null; then
                good "http://[$ADDRESS_V6%$card] answers"
            else
                note "http://[$ADDRESS_V6%$card] does not answer; that is no fault where IPv4 does"
            fi
        fi
    done
fi

# --- cloud-init -----------------------------------------------------------------------------

if have cloud-init; then
    state=$(cloud-init status 2>/dev/null | sed -n 's/^status: *//p')
    source=$(sed -n 's/.*"datasource": *"\([^"]*\)".*/\1/p' /run/cloud-init/status.json 2>/dev/null | head -n 1)
    case $state in
    done) good "cloud-init is done${source:+, with $source}" ;;
    running | 'not run' | 'not started') note "cloud-init: $state" ;;
    disabled) fault "cloud-init is disabled" "cat /run/cloud-init/ds-identify.log; ls /etc/cloud/cloud-init.disabled" ;;
    *) fault "cloud-init: ${state:-no status}" "cloud-init status --long; tail /var/log/cloud-init.log" ;;
    esac
    case $source in
    *None*) fault "cloud-init found no data source at its first try, and tries only once" \
        "When metadata answers now:  cloud-init clean --logs && reboot" ;;
    esac
else
    note "there is no cloud-init here"
fi

if [ "$faults" -eq 0 ]; then
    if [ "${works:-}" = yes ]; then echo "Nothing is wrong."; else echo "Nothing wrong was found."; fi
    exit 0
fi
exit 1
