#!/usr/bin/env bash
# Does a socket that is never read make the kernel join a group, while another socket gets the packets?
#
#   run_test.sh                  the experiment
#   run_test.sh --break CASE     the same with one thing broken on purpose: must end in FAILURE, and say why
#   run_test.sh --list           what can be broken
#   run_test.sh --all [--check]  the experiment and every broken form of it, compared with result.json
#
# Exit 0: SUCCESS. Exit 1: FAILURE, with the reason. Root, or any user where the kernel lets users make namespaces.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
export PATH="$PATH:/usr/sbin:/sbin" PYTHONDONTWRITEBYTECODE=1

case ${1:-} in
--list) exec "$python" "$here/helper_socket.py" --list ;;
--all) exec "$python" "$here/helper_socket.py" --all "$0" "${@:2}" ;;
esac

# In a mount namespace with a /run of our own the two names below cannot meet anyone else's, and they
# go when this process goes, even if it is killed.
if [ "${IN_LAB:-}" != 1 ]; then
    flags=-nm
    [ "$(id -u)" = 0 ] || flags=-rnm
    unshare "$flags" true 2>/dev/null || {
        echo "FAILURE: this kernel does not let ordinary users make namespaces; run it as root"
        exit 1
    }
    IN_LAB=1 exec unshare "$flags" --kill-child --fork "$here/${0##*/}" "$@"
fi
mount -t tmpfs tmpfs /run
trap 'ip netns delete sender 2>/dev/null; ip netns delete relay 2>/dev/null' EXIT

#      sender                            relay
#   192.168.100.2 ------- veth ------- 192.168.100.1     helper socket: joins, is never read
#     veth-sender                        veth-relay      AF_PACKET socket: gets the datagrams
ip netns add sender
ip netns add relay
ip -n sender link add veth-sender type veth peer name veth-relay netns relay
ip -n sender address add 192.168.100.2/24 dev veth-sender
ip -n relay address add 192.168.100.1/24 dev veth-relay
ip -n sender link set veth-sender up
ip -n relay link set veth-relay up

"$python" "$here/helper_socket.py" "$@"
