FROM stack-test-tools:1
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
