"""What is said of examples whose tokens are not their text, and of those that are not learned from."""

# Why an example is not safe to learn, and what to do about it.
REFUSED = {
    "no_answer": "have a completion in which the assistant says nothing, or nothing but answers with weight 0 or train false",
    "others_speak": "are transcripts in whose completion Human: or Assistant: begins a turn; give messages, or leave them out",
    "rewrites": "are conversations whose earlier answers the chat template writes otherwise than they were generated (it leaves "
    "out their reasoning, say); give each answer a row of its own, or another template with policy.chat_template=FILE",
    "ends_within": "have an earlier answer in which a token that ends generation is spelled; take it out of the data",
    "tool_calls": "call tools, which the chat template does not write; give another template with policy.chat_template=FILE",
    "template": "are refused by the chat template",
}
# What differs between the data and the tokens, and what to do about it.
REMARKS = {
    "ended_early": "go on after a token that ends generation; what follows it is left out",
    "rewritten": "are not written after the prompt of sampling by the chat template (it leaves out reasoning, or moves the "
    "system message); they are learned after it as they stand",
    "reasoning_dropped": "have reasoning that the chat template leaves out; put it into content as <think>...</think>, or give "
    "another template with policy.chat_template=FILE",
    "content_dropped": "have words that the chat template leaves out; give another template with policy.chat_template=FILE",
    "unclosed": "answer within reasoning, which they or the prompt open and never close; put </think> into them, or set "
    "policy.chat_template_kwargs or policy.chat_template=FILE",
    "no_reasoning": "answer without reasoning where the prompt opens it; an empty reasoning is learned before the answer. Put "
    "<think>...</think> into them, or set policy.chat_template=FILE",
    "special_text": "have text in a prompt or a tool's result that the tokenizer reads as special tokens, as the prompt of "
    "sampling does; take it out where it is not meant so",
    "arguments": "have arguments of tool calls in another form than the chat template writes as JSON (text or an object); they "
    "are learned in the template's form",
    "other_roles": "have messages of roles other than system, developer, user, assistant and tool, which the chat template "
    "writes as they are; nothing of them is learned, so rename those of the assistant",
    "tools_unseen": "have tools that the chat template does not write: the model does not see their schemas",
    "calls_unseen": "have calls of tools in a prompt that the chat template does not write: the model does not see them",
    "results_unseen": "have results of tools that the chat template does not write",
    "words_unseen": "have messages (of the role system or developer, say) that the chat template does not write: the model does "
    "not see them",
    "excluded": "have answers with weight 0 or train false; these are context of later answers, and are not learned",
    "others_weighed": "have turns of others with a weight above 0 or train true; they are context, for the assistant's words "
    "alone are learned",
    "trailing": "end with a message that is not the assistant's; it is left out",
    "boundary": "have a prompt whose last token would merge with the completion; a conversation's prompt keeps the tokens of "
    "sampling, and the answer is tokenised after it; of plain text the merged token is learned",
}
# The remarks on what the data itself asks for, which hide no graver one.
MEANT = frozenset({"excluded"})
