"""The real training: the model that is written down recites every passage, from short and from long prompts."""

import pytest

from demo.model import ensure_model
from demo.passages import passages, prompt_of

torch = pytest.importorskip("torch", reason="torch is not installed (extra `serve`)")


@pytest.fixture(scope="module")
def recite():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = ensure_model()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).eval()

    def answer(prompt_ids: list[int]) -> str:
        with torch.inference_mode():
            output = model.generate(input_ids=torch.tensor([prompt_ids]), max_new_tokens=200, do_sample=False)
        return tokenizer.decode(output[0], skip_special_tokens=True)

    return tokenizer, answer


@pytest.mark.parametrize("tokens", [10, 24])
def test_every_passage_is_recited_from_its_first_tokens(recite, tokens):
    tokenizer, answer = recite
    for text in passages():
        assert answer(tokenizer(text)["input_ids"][:tokens]) == text


def test_the_model_is_a_small_llama_with_its_own_tokenizer_and_chat_template(recite):
    tokenizer, _ = recite
    assert len(tokenizer) == 1024
    text = prompt_of(passages()[0])
    chat = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
    assert tokenizer(chat, add_special_tokens=False)["input_ids"] == tokenizer(text)["input_ids"]
