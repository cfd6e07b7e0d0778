FROM stack-test-tools:1
ARG version
RUN mkdir -p /var/lib/grafana && chown 472:472 /var/lib/grafana
COPY grafana.py /grafana.py
ENV VERSION=$version
USER 472
ENTRYPOINT ["python3", "/grafana.py"]
