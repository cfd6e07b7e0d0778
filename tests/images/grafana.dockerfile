FROM stack-test-tools:1
ARG version
RUN mkdir -p /var/lib/grafana && chown 472:472 /var/lib/grafana
COPY grafana.py /grafana.py
# As the real image has them.
RUN printf '#!/bin/sh\nexec python3 /grafana.py\n' > /run.sh \
    && printf '#!/bin/sh\nexec python3 /grafana.py "$@"\n' > /usr/bin/grafana \
    && chmod 755 /run.sh /usr/bin/grafana
ENV VERSION=$version
USER 472
ENTRYPOINT ["/run.sh"]
