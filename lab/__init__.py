"""Two clusters on one machine, without Kubernetes: network namespaces, real services, a real DNS server, real faults.

    __main__.py   `make two-clusters`: builds the clusters and reads commands that break and repair them
    lab.py        the clusters: what they consist of, start and end, changes to them
    cluster.py    one cluster: namespace, virtual addresses, firewall, resolv.conf
    dns.py        the DNS of a cluster: unbound, and its faults
    link.py       a link with latency between two clusters
    forward.py    a port of the host that leads to a pod
    leftovers.py  the removal of what a killed process left behind
    processes.py  the services as processes on loopback, without clusters

By hand, as root: `make two-clusters` builds the clusters, prints the address of the page, and reads commands (`help`
lists them). Ctrl-C removes the clusters. Meanwhile, from another shell:

    export PRODUCER_URL=sample-producer.istio-apps.svc.clusterset.local
    ip netns exec caller-cluster .venv/bin/sample-caller call
    ip netns exec producer-cluster iptables -A FIREWALL -p tcp -j DROP

The tests that need it are in `tests/lab/`.
"""
