//! Stopping: who is being answered is answered to the end.

use serde_json::json;
use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn an_answer_in_flight_is_finished_and_then_nobody_is_let_in() {
    let timing = Timing { time_per_output_token: Duration::from_millis(20), ..INSTANT };
    let sandbox = Sandbox::with(|options| options.timing = timing).await;
    let request = json!({"model": DEFAULT_MODEL, "prompt": "hi", "options": {"num_predict": 20}});
    let mut response = sandbox.send(Method::POST, "/api/generate", Some(&request)).await;
    let mut text = response.chunk().await.unwrap().unwrap().to_vec();
    sandbox.stop.send(()).unwrap();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), 21);
    assert!(text.lines().last().unwrap().contains("\"done\":true"));
    tokio::time::timeout(PATIENCE, sandbox.running).await.expect("it did not stop").unwrap().unwrap();
    assert!(TcpStream::connect(sandbox.address).await.is_err());
}
