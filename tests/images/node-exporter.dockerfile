FROM stack-test-tools:1
USER 65534
ENTRYPOINT ["/usr/bin/prometheus-node-exporter"]
