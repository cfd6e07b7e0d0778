FROM stack-test-base:1
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates curl nginx-light prometheus prometheus-node-exporter python3 wget \
    && rm -rf /var/lib/apt/lists/*
