//! What HTTP asks of a proxy, and what the gateway says itself.

use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE};
use tokio::io::AsyncWriteExt;

use crate::support::{ANYWHERE, AnyBody, Engine, Gateway, Raw, chunks, text, whole};

/// An engine that answers with the request it got: its head in `x-…` headers, its body as the body.
async fn echo() -> Engine {
    Engine::start(|request: Request<Incoming>| async {
        let (head, body) = request.into_parts();
        let mut names: Vec<&str> = head.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        let mut response = Response::builder()
            .header("x-line", format!("{} {} {:?}", head.method, head.uri, head.version))
            .header("x-host", &head.headers["host"])
            .header("x-names", names.join(","))
            .header("connection", "x-private")
            .header("x-private", "1")
            .header("keep-alive", "timeout=5");
        if head.method == Method::HEAD {
            response = response.header("content-length", 17);
        }
        response.body(whole(body.collect().await.unwrap().to_bytes())).unwrap()
    })
    .await
}

fn header<'a>(response: &'a Response<Incoming>, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn the_engine_is_told_that_it_is_localhost() {
    let engine = echo().await;
    let gateway = Gateway::before(&engine).await;
    let request = Request::get("/api/version?a=%2F").header("host", "studio.local:11434").body(whole("")).unwrap();
    let response = gateway.send(request).await;
    assert_eq!(header(&response, "x-host"), format!("localhost:{}", engine.address.port()));
    assert_eq!(header(&response, "x-line"), "GET /api/version?a=%2F HTTP/1.1");
}

#[tokio::test]
async fn headers_of_a_connection_stay_on_it() {
    let engine = echo().await;
    let gateway = Gateway::before(&engine).await;
    let request = Request::post("/api/chat")
        .header("connection", "x-mine")
        .header("x-mine", "1")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic eA==")
        .header("authorization", "Bearer x")
        .body(whole("{}"))
        .unwrap();
    let response = gateway.send(request).await;
    assert_eq!(header(&response, "x-names"), "authorization,content-length,host");
    assert!(!response.headers().contains_key("x-private"));
    assert!(!response.headers().contains_key("keep-alive"));
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_plain_body() {
    let engine = Engine::start(|request: Request<Incoming>| async move {
        // Of unknown length, so that the engine sends it in chunks.
        let (sender, body) = chunks();
        sender.send(Ok(format!("{:?}", request.version()).into())).await.unwrap();
        Response::new(body)
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    client.write("GET /api/version HTTP/1.0\r\n\r\n").await;
    let response = client.read_to_end().await;
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nHTTP/1.1"), "{response}");
    assert!(!response.contains("chunked"), "{response}");
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_continue() {
    let engine = echo().await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    client.write("POST /api/chat HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n").await;
    assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("{\"model\":\"m\"}").await;
    assert!(client.read_until("{\"model\":\"m\"}").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_client_that_expects_100_learns_first_that_the_engine_is_gone() {
    let gateway = Gateway::alone().await;
    let mut client = Raw::connect(&gateway).await;
    client.write("POST /api/chat HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n").await;
    assert!(client.read_until("}").await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn a_connection_serves_request_after_request() {
    let engine = echo().await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    for round in 0..3 {
        client.write("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let head = client.read_until("\r\n\r\n").await;
        assert!(head.contains("content-length: 17\r\n"), "{head}");
        let body = format!("{{\"round\":{round}}}");
        client.write(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        client.read_until(&body).await;
    }
    gateway.counts(&["{model=\"none\",endpoint=\"root\",outcome=\"ok\",code=\"200\"} 6"]).await;
}

#[tokio::test]
async fn an_error_of_the_engine_passes_as_it_is() {
    let engine = Engine::start(|_| async {
        let response = Response::builder().status(StatusCode::NOT_FOUND).header("x-theirs", "1");
        response.body(whole("{\"error\":\"model 'x' not found\"}")).unwrap()
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    let response = gateway.send(Request::post("/api/chat").body(whole("{\"model\":\"x\"}")).unwrap()).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&response, "x-theirs"), "1");
    assert_eq!(text(response).await, "{\"error\":\"model 'x' not found\"}");
}

#[tokio::test]
async fn an_engine_that_is_gone_is_an_error_in_the_shape_of_the_api() {
    let gateway = Gateway::alone().await;
    for (path, start) in [
        ("/api/chat", r#"{"error":"the engine does not answer: "#),
        ("/", r#"{"error":"the engine does not answer: "#),
        ("/v1/chat/completions", r#"{"error":{"code":null,"message":"the engine does not answer: "#),
        ("/v1/messages", r#"{"error":{"message":"the engine does not answer: "#),
    ] {
        let response = gateway.send(Request::post(path).body(whole("{}")).unwrap()).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{path}");
        assert_eq!(header(&response, CONTENT_TYPE.as_str()), "application/json", "{path}");
        let body = text(response).await;
        assert!(body.starts_with(start), "{path}: {body}");
        assert_eq!(body.contains(r#""type":"error""#), path == "/v1/messages", "{path}: {body}");
    }
}

#[tokio::test]
async fn a_request_without_a_path_is_refused() {
    let engine = echo().await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    client.write("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n").await;
    assert!(client.read_until("}").await.starts_with("HTTP/1.1 400 Bad Request\r\n"));
}

#[tokio::test]
async fn the_gateway_is_healthy_without_an_engine() {
    let gateway = Gateway::alone().await;
    assert_eq!(gateway.get("/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    assert_eq!(gateway.value("ollama_up").await, Some(0.0));
}

#[tokio::test]
async fn metrics_are_openmetrics_and_read_only() {
    let gateway = Gateway::alone().await;
    let get = |method| Request::builder().method(method).uri("/metrics").body(whole("") as AnyBody).unwrap();
    let response = gateway.send(get(Method::GET)).await;
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(header(&response, CONTENT_TYPE.as_str()), openmetrics);
    assert!(text(response).await.ends_with("# EOF\n"));
    assert_eq!(gateway.send(get(Method::HEAD)).await.status(), StatusCode::OK);
    assert_eq!(gateway.send(get(Method::POST)).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[test]
fn a_taken_address_is_named_with_the_systems_reason() {
    let taken = std::net::TcpListener::bind(ANYWHERE).unwrap();
    let listen = taken.local_addr().unwrap();
    let error = gateway::serve(gateway::Options::new(listen, ANYWHERE)).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {listen}"));
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.to_lowercase().contains("in use"), "{reason}");
    assert!(error.hint().unwrap().contains(&format!(":{} ", listen.port())));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_and_the_next_client_served() {
    const LIMIT: usize = 64 << 10;
    let engine = echo().await;
    let gateway = Gateway::before(&engine).await;
    // It goes on, but as much as the gateway takes of a head has come.
    let begun = "GET / HTTP/1.1\r\nHost: x\r\nx-a: ";
    let long = format!("{begun}{}", "a".repeat(LIMIT - begun.len()));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "x-a: a\r\n".repeat(120));
    for head in [long, many] {
        let mut client = Raw::connect(&gateway).await;
        client.write(head).await;
        let said = client.read_to_end().await;
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    }
    assert_eq!(gateway.get("/api/version").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_in_the_shape_of_the_api_unless_it_is_a_blob() {
    const TOO_LONG: usize = (256 << 20) + 1;
    let engine = echo().await;
    let gateway = Gateway::before(&engine).await;
    for (path, start) in
        [("/api/chat", "{\"error\":\"the request is longer than 256 MiB\""), ("/v1/chat/completions", "{\"error\":{")]
    {
        let mut client = Raw::connect(&gateway).await;
        // It is said before any of it is sent.
        client.write(format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {TOO_LONG}\r\n\r\n")).await;
        let said = client.read_until("}").await;
        assert!(said.starts_with("HTTP/1.1 413 ") && said.contains(start), "{said}");
    }
    gateway
        .counts(&[
            "{model=\"other\",endpoint=\"chat\",outcome=\"error\",code=\"413\"} 1",
            "{model=\"other\",endpoint=\"openai_chat\",outcome=\"error\",code=\"413\"} 1",
        ])
        .await;
    let mut client = Raw::connect(&gateway).await;
    client
        .write(format!(
            "POST /api/blobs/sha256:0 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {TOO_LONG}\r\n\r\n"
        ))
        .await;
    assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_off_where_it_is_too_long() {
    // It reads on and on, and answers nothing.
    let engine = Engine::start(|request: Request<Incoming>| async {
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::before(&engine).await;
    let mut client = Raw::connect(&gateway).await;
    client.write("POST /api/generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    for _ in 0..257 {
        // Once it is refused nobody has to read the rest.
        if client.stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let said = client.read_until("}").await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
}
