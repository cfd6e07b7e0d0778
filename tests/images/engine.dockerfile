FROM stack-test-tools:1
COPY xtask /usr/local/bin/xtask
COPY ollama /usr/local/bin/ollama
ENTRYPOINT ["/usr/local/bin/ollama"]
CMD ["serve"]
