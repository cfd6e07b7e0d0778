"""What the real Python clients make of the stand-in: `check.py CLIENT URL`.

Each client's own classes are used and asserted on, so whatever it cannot parse fails here.
"""

import json
import sys

MODEL = "qwen3:8b"
EMBEDDER = "nomic-embed-text"
ASK = [{"role": "user", "content": "hello"}]
WEATHER = [{"role": "user", "content": "the weather?"}]
BROKEN = [{"role": "user", "content": "broken"}]
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
FUNCTION = {
    "name": "get_weather",
    "description": "tells the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SYNTHETIC = "[sandbox] synthetic reply"


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def check_ollama(url):
    import ollama

    client = ollama.Client(host=url)
    assert {model.model for model in client.list().models} == {MODEL, EMBEDDER + ":latest"}
    shown = client.show(MODEL)
    assert shown.details.family == "qwen3" and "thinking" in shown.capabilities, shown

    whole = client.chat(MODEL, ASK, think=False)
    assert whole.message.content.startswith(SYNTHETIC) and whole.done_reason == "stop", whole
    assert whole.prompt_eval_count > 0 and whole.eval_count > 0 and whole.total_duration > 0, whole
    parts = list(client.chat(MODEL, ASK, stream=True, think=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert "".join(part.message.thinking or "" for part in parts).startswith("[sandbox]")
    assert [part.done for part in parts[:-1]] == [False] * (len(parts) - 1) and parts[-1].done
    assert client.generate(MODEL, "hello").response.startswith(SYNTHETIC)
    assert len(list(client.generate(MODEL, "hello", stream=True, options={"num_predict": 3}))) == 4

    tools = [{"type": "function", "function": FUNCTION}]
    message = client.chat(MODEL, WEATHER, tools=tools).message
    call = message.tool_calls[0].function
    assert (call.name, call.arguments, message.thinking) == ("get_weather", {"city": "Oslo"}, "I must look."), message
    answer = {"role": "tool", "tool_name": "get_weather", "content": "sunny"}
    assert client.chat(MODEL, WEATHER + [message, answer], tools=tools).message.content.startswith(SYNTHETIC)
    json.loads(client.chat(MODEL, ASK, format="json").message.content)
    assert isinstance(json.loads(client.chat(MODEL, ASK, format=SCHEMA).message.content)["age"], int)

    assert len(client.embed(EMBEDDER, ["one", "two"]).embeddings) == 2
    assert len(client.embeddings(EMBEDDER, "one").embedding) > 8
    assert [model.model for model in client.ps().models] != []

    progress = list(client.pull("llama3.1:8b", stream=True))
    assert progress[-1].status == "success" and any(line.completed for line in progress), progress
    made = client.create("mine", from_="llama3.1:8b", system="Be brief.", parameters={"num_ctx": 512})
    assert made.status == "success" and client.show("mine").modelfile.count("SYSTEM Be brief.") == 1
    client.copy("mine", "yours")
    assert client.delete("yours").status == "success"
    error = raises(ollama.ResponseError, lambda: client.show("yours"))
    assert (error.status_code, error.error) == (404, "model 'yours:latest' not found"), error
    error = raises(ollama.ResponseError, lambda: client.chat(MODEL, BROKEN))
    assert (error.status_code, error.error) == (503, "busy"), error


def check_openai(url):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).owned_by == "library"

    chat = client.chat.completions.create
    whole = chat(model=MODEL, messages=ASK, max_tokens=400)
    assert whole.choices[0].message.content.startswith(SYNTHETIC) and whole.choices[0].finish_reason == "stop", whole
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(chat(model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage.completion_tokens > 0
    assert chat(model=MODEL, messages=ASK, max_tokens=2).choices[0].finish_reason == "length"

    tools = [{"type": "function", "function": FUNCTION}]
    choice = chat(model=MODEL, messages=WEATHER, tools=tools).choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and json.loads(call.function.arguments) == {"city": "Oslo"}, choice
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    assert chat(model=MODEL, messages=WEATHER + [choice.message, result], tools=tools).choices[0].message.content
    streamed = list(chat(model=MODEL, messages=WEATHER, tools=tools, stream=True))
    calls = [chunk.choices[0].delta.tool_calls for chunk in streamed if chunk.choices]
    assert [call[0].function.name for call in calls if call] == ["get_weather"]
    wanted = {"type": "json_schema", "json_schema": {"name": "age", "schema": SCHEMA}}
    answer = chat(model=MODEL, messages=ASK, response_format=wanted).choices[0].message.content
    assert isinstance(json.loads(answer)["age"], int)

    completion = client.completions.create(model=MODEL, prompt="hello", max_tokens=400)
    assert completion.choices[0].text.startswith(SYNTHETIC)
    assert len(list(client.completions.create(model=MODEL, prompt="hello", max_tokens=3, stream=True))) >= 3
    # The client asks for base64 by itself, and decodes it.
    vectors = client.embeddings.create(model=EMBEDDER, input=["one", "two"]).data
    assert len(vectors) == 2 and isinstance(vectors[0].embedding[0], float)

    assert client.responses.create(model=MODEL, input="hello").output_text.startswith(SYNTHETIC)
    events = list(client.responses.create(model=MODEL, input="hello", stream=True))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert events[-1].response.output_text.startswith(SYNTHETIC)

    error = raises(openai.NotFoundError, lambda: chat(model="none", messages=ASK))
    assert error.body["message"] == "model 'none' not found", error.body
    raises(openai.BadRequestError, lambda: chat(model=MODEL, messages=[]))
    raises(openai.InternalServerError, lambda: chat(model=MODEL, messages=BROKEN))


def check_anthropic(url):
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    whole = client.messages.create(model=MODEL, max_tokens=400, messages=ASK, system="Be brief.")
    assert [block.type for block in whole.content] == ["thinking", "text"], whole
    assert whole.content[1].text.startswith(SYNTHETIC) and whole.stop_reason == "end_turn", whole
    assert whole.usage.input_tokens > 0 and whole.usage.output_tokens > 0
    with client.messages.stream(model=MODEL, max_tokens=400, messages=ASK, system="Be brief.") as stream:
        assert "".join(stream.text_stream) == whole.content[1].text
        assert stream.get_final_message().stop_reason == "end_turn"
    silent = client.messages.create(model=MODEL, max_tokens=2, messages=ASK, thinking={"type": "disabled"})
    assert ([block.type for block in silent.content], silent.stop_reason) == (["text"], "max_tokens"), silent

    tool = {"name": FUNCTION["name"], "description": "", "input_schema": FUNCTION["parameters"]}
    turn = client.messages.create(model=MODEL, max_tokens=400, messages=WEATHER, tools=[tool])
    call = turn.content[-1]
    assert (turn.stop_reason, call.type, call.input) == ("tool_use", "tool_use", {"city": "Oslo"}), turn
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}
    said = WEATHER + [{"role": "assistant", "content": turn.content}, result]
    assert client.messages.create(model=MODEL, max_tokens=400, messages=said, tools=[tool]).stop_reason == "end_turn"
    with client.messages.stream(model=MODEL, max_tokens=400, messages=WEATHER, tools=[tool]) as stream:
        assert stream.get_final_message().content[-1].input == {"city": "Oslo"}

    error = raises(
        anthropic.NotFoundError, lambda: client.messages.create(model="none", max_tokens=1, messages=ASK)
    )
    assert error.body["error"]["message"] == "model 'none' not found", error.body
    raises(anthropic.BadRequestError, lambda: client.messages.create(model=MODEL, max_tokens=1, messages=[]))
    raises(anthropic.APIStatusError, lambda: client.messages.create(model=MODEL, max_tokens=1, messages=BROKEN))


CHECKS = {"ollama": check_ollama, "openai": check_openai, "anthropic": check_anthropic}
CHECKS[sys.argv[1]](sys.argv[2])
