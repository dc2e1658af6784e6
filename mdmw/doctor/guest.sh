#!/bin/sh
# mdmw doctor --guest: find out why this machine gets no metadata.
#
# Run this script as root inside the guest, with dash, busybox or bash. The script needs no name server, and changes
# nothing. Each check needs the checks before it, so the first FAULT is the cause.
# Exit status: 0 nothing is wrong, 1 there is a fault.

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

# Fetch a URL without a proxy, and print the body of the answer. Status 0: the answer was good.
fetch() {
    if have curl; then
        curl -gfsS --noproxy '*' --connect-timeout "$WAIT" -m "$WAIT" "$1" 2>&1
    elif have wget; then
        # each build of busybox has other options; the help names the options of this build
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
        echo "this machine has neither curl nor wget"
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
            "The DHCP server did not answer, or no DHCP client runs. Try  udhcpc -i eth0  or  dhclient -v eth0" \
            "Without an IPv4 address, only the IPv6 link-local address can give metadata; see below."
    fi
    route=$(ip -4 route get "$ADDRESS" 2>/dev/null | head -n 1)
    case $route in
    '') [ -n "$v4" ] && fault "this machine has no route to $ADDRESS" \
        "The DHCP server sends the route in option 121 (on Windows: 249). Check that the DHCP client asks for it." \
        "To add the route by hand, use the address of the DHCP server:  ip route add $ADDRESS/32 via DHCP-SERVER" ;;
    local*) fault "$ADDRESS is an address of this machine itself" "ip addr del $ADDRESS/32 dev lo" ;;
    *) good "route: $route" ;;
    esac
else
    note "this machine has no command ip, so addresses and routes are not checked"
fi

# --- the metadata service -------------------------------------------------------------------

answer=$(fetch "http://$ADDRESS/openstack/latest/meta_data.json")
status=$?
case $status:$answer in
0:*'"uuid"'*)
    good "http://$ADDRESS answers: $(printf '%s' "$answer" | sed -n 's/.*"uuid": *"\([^"]*\)".*/instance \1/p')"
    works=yes
    ;;
127:*)
    note "$answer, so the metadata service is not checked"
    works=unknown
    ;;
*:*404*) fault "http://$ADDRESS answers 404: the service knows no instance with the address ${v4:-of this machine}" \
    "Compare this address with the fixed address of the port. On the node:  mdmw doctor --address ${v4:-IP}" ;;
*:*403*) fault "http://$ADDRESS answers 403: the agent and Nova have different secrets" "On the node:  mdmw doctor" ;;
*:*503* | *:*502* | *:*504* | *:*500*)
    fault "http://$ADDRESS answers with a server error: $(printf '%s' "$answer" | head -n 1)" "On the node:  mdmw doctor" ;;
0:*) fault "the answer of http://$ADDRESS is not metadata" "Check whether a proxy or a captive portal gives this answer." ;;
*) fault "http://$ADDRESS cannot be reached: $(printf '%s' "$answer" | head -n 1)" \
    "Check the path to the node. On the node:  mdmw doctor --address ${v4:-IP}" ;;
esac

# --- proxies --------------------------------------------------------------------------------

for name in http_proxy HTTP_PROXY all_proxy ALL_PROXY; do
    eval "proxy=\${$name:-}"
    # The address of the proxy may contain a password, so it is not printed.
    if [ -n "$proxy" ]; then
        case ",${no_proxy:-}${NO_PROXY:+,$NO_PROXY}," in
        *"$ADDRESS"* | *,169.254.0.0/16,* | *,\*,*) good "$name is set, and no_proxy contains $ADDRESS" ;;
        *) fault "$name is set, and no_proxy does not contain $ADDRESS: programs ask the proxy for metadata" \
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
                note "http://[$ADDRESS_V6%$card] does not answer; this is no fault if IPv4 metadata works"
            fi
        fi
    done
fi

# --- cloud-init -----------------------------------------------------------------------------

if have cloud-init; then
    state=$(cloud-init status 2>/dev/null | sed -n 's/^status: *//p')
    source=$(sed -n 's/.*"datasource": *"\([^"]*\)".*/\1/p' /run/cloud-init/status.json 2>/dev/null | head -n 1)
    case $state in
    done) good "cloud-init has finished${source:+, with $source}" ;;
    running | 'not run' | 'not started') note "cloud-init: $state" ;;
    disabled) fault "cloud-init is disabled" "cat /run/cloud-init/ds-identify.log; ls /etc/cloud/cloud-init.disabled" ;;
    *) fault "cloud-init: ${state:-no status}" "cloud-init status --long; tail /var/log/cloud-init.log" ;;
    esac
    case $source in
    *None*) fault "cloud-init found no data source when it probed, and cloud-init probes only once" \
        "If metadata works now:  cloud-init clean --logs && reboot" ;;
    esac
else
    note "this machine has no cloud-init"
fi

if [ "$faults" -eq 0 ]; then
    if [ "${works:-}" = yes ]; then echo "Nothing is wrong."; else echo "No fault was found, but the metadata service was not checked."; fi
    exit 0
fi
exit 1
