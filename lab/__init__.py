"""Two clusters on one machine, and tests that break the network between them.

    lab.py            builds the clusters and takes them down: what they are made of is drawn there
    cluster.py        one of them: namespace, virtual addresses, resolv.conf
    dns.py            unbound as the clusters' DNS, and its faults
    link.py           a link that has latency
    leftovers.py      what a killed run leaves behind, and how the next one removes it
    test_story.py     from before the export to after its end, with the numbers of the MCS conformance tests
    test_failures.py  the failure matrix: every row made for real; printed as a table at the end
    worlds.py         what they are made with
    test_calls.py     connections, phases and lookups across clusters
    test_lab.py       the lab itself

By hand, as root: `make two-clusters` builds it, prints where the page is, and asks for commands that break and repair
it (`help` lists them). Ctrl-C takes it down. Meanwhile, from any other shell:

    export PRODUCER_URL=sample-producer.istio-apps.svc.clusterset.local
    ip netns exec caller-cluster .venv/bin/sample-caller call
    ip netns exec producer-cluster iptables -A FIREWALL -p tcp -j DROP
"""
