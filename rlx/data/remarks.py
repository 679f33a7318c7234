"""The messages about examples whose tokens differ from their text, and about those that are not learned from."""

# Why an example cannot be learned safely, and what to do about it.
REFUSED = {
    "no_answer": "have a completion without an answer of the assistant, or only answers with weight 0 or train false",
    "others_speak": "are transcripts whose completion contains a turn that begins with Human: or Assistant:; give messages, or "
    "remove them",
    "rewrites": "are conversations whose earlier answers the chat template renders differently from how they were generated "
    "(for example, without their reasoning); put each answer into its own row, or set policy.chat_template=FILE",
    "ends_within": "have an earlier answer that contains a token that ends generation; remove it from the data",
    "tool_calls": "call tools, which the chat template does not render; set policy.chat_template=FILE",
    "template": "are rejected by the chat template",
}
# What differs between the data and the tokens, and what to do about it.
REMARKS = {
    "ended_early": "continue after a token that ends generation; what follows it is left out",
    "rewritten": "are rendered by the chat template after another prompt than that of sampling (it leaves out reasoning, or "
    "moves the system message); they are learned unchanged after the prompt of sampling",
    "reasoning_dropped": "have reasoning that the chat template leaves out; put it into content as <think>...</think>, or set "
    "policy.chat_template=FILE",
    "content_dropped": "have text that the chat template leaves out; set policy.chat_template=FILE",
    "unclosed": "answer inside reasoning that they or the prompt open and never close; add </think>, or set "
    "policy.chat_template_kwargs or policy.chat_template=FILE",
    "no_reasoning": "answer without reasoning although the prompt opens it; an empty reasoning is learned before the answer. "
    "Add <think>...</think>, or set policy.chat_template=FILE",
    "special_text": "have text in a prompt or a tool's result that the tokenizer reads as special tokens, as in the prompt of "
    "sampling; remove it if this is not intended",
    "arguments": "have arguments of tool calls in a form (text or an object) that the chat template does not render as JSON; "
    "they are learned in the template's form",
    "other_roles": "have messages of roles other than system, developer, user, assistant and tool, which the chat template "
    "renders unchanged; they are not learned, so rename those of the assistant",
    "tools_unseen": "have tools that the chat template does not render: the model does not see their schemas",
    "calls_unseen": "have tool calls in a prompt that the chat template does not render: the model does not see them",
    "results_unseen": "have tool results that the chat template does not render",
    "words_unseen": "have messages (for example of the role system or developer) that the chat template does not render: the "
    "model does not see them",
    "excluded": "have answers with weight 0 or train false; these are context for later answers and are not learned",
    "others_weighed": "have turns of other roles with a weight above 0 or train true; they are context, because only the "
    "assistant's words are learned",
    "trailing": "end with a message that is not the assistant's; it is left out",
    "boundary": "have a prompt whose last token would merge with the completion; the prompt of a conversation keeps the tokens "
    "of sampling, and the answer is tokenised after it; in plain text the merged token is learned",
}
# Remarks about what the data itself asks for: they come last.
MEANT = frozenset({"excluded"})
