"""The messages about examples whose tokens differ from their text, and about those that are not learned from."""

# Why an example cannot be learned safely, and what to do about it.
REFUSED = {
    "no_answer": "have a completion in which the assistant says nothing, or nothing but answers with weight 0 or train false",
    "others_speak": "are transcripts in whose completion Human: or Assistant: begins a turn; give messages, or leave them out",
    "rewrites": "are conversations whose earlier answers the chat template writes differently from how they were generated ("
    "without their reasoning, say); give each answer its own row, or another template with policy.chat_template=FILE",
    "ends_within": "have an earlier answer in which a token that ends generation is spelled; take it out of the data",
    "tool_calls": "call tools, which the chat template does not write; give another template with policy.chat_template=FILE",
    "template": "are refused by the chat template",
}
# Differences between the data and the tokens, and what to do about them.
REMARKS = {
    "ended_early": "continue after a token that ends generation; the rest is left out",
    "rewritten": "are not written after the prompt of sampling by the chat template (it leaves out reasoning, or moves the "
    "system message); they are learned after it unchanged",
    "reasoning_dropped": "have reasoning that the chat template leaves out; put it into content as <think>...</think>, or give "
    "another template with policy.chat_template=FILE",
    "content_dropped": "have words that the chat template leaves out; give another template with policy.chat_template=FILE",
    "unclosed": "answer within reasoning, which they or the prompt open and never close; put </think> into them, or set "
    "policy.chat_template_kwargs or policy.chat_template=FILE",
    "no_reasoning": "answer without reasoning although the prompt opens it; an empty reasoning is learned before the answer. "
    "Add <think>...</think>, or set policy.chat_template=FILE",
    "special_text": "have text in a prompt or a tool's result that the tokenizer reads as special tokens, as in the prompt of "
    "sampling; remove it if this is not intended",
    "arguments": "have arguments of tool calls in a form (text or an object) that the chat template does not render as JSON; "
    "they are learned in the template's form",
    "other_roles": "have messages of roles other than system, developer, user, assistant and tool, which the chat template "
    "writes as they are; nothing of them is learned, so rename those of the assistant",
    "tools_unseen": "have tools that the chat template does not write: the model does not see their schemas",
    "calls_unseen": "have calls of tools in a prompt that the chat template does not write: the model does not see them",
    "results_unseen": "have results of tools that the chat template does not write",
    "words_unseen": "have messages (of the role system or developer, say) that the chat template does not write: the model does "
    "not see them",
    "excluded": "have answers with weight 0 or train false; these are context of later answers, and are not learned",
    "others_weighed": "have turns of others with a weight above 0 or train true; they are context: only the assistant's words "
    "are learned",
    "trailing": "end with a message that is not the assistant's; it is left out",
    "boundary": "have a prompt whose last token would merge with the completion; the prompt of a conversation keeps the tokens "
    "of sampling, and the answer is tokenised after it; in plain text the merged token is learned",
}
# Remarks about what the data itself asks for: they come last.
MEANT = frozenset({"excluded"})
