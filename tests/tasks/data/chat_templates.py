"""Chat templates as bases bring them, cut down to what makes each hard."""

from __future__ import annotations

from tests.tiny import TEMPLATE

CUE = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

CHATML = TEMPLATE

# A default system turn, as SmolLM2's and Qwen 2.5's; looks at the first message only.
DEFAULT_SYSTEM = (
    "{% for m in messages %}"
    "{% if loop.first and messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}" + CUE
)

# Llama's and Mistral's manner: the system turn is cut off first.
SLICED = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{{ system }}"
    "{% for m in rest %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>{% endfor %}" + CUE
)

# Qwen 2.5's: results are grouped into one user's turn, by looking ahead; calls are written as JSON.
LOOKS_AHEAD = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ m.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{%- else %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# A trainer's: tools, and generation blocks that take in the end of the turn.
BLOCKS = """\
{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson(indent=1) }}{% endfor %}</tools><|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}<|im_start|>assistant
{% generation %}{{ m.content }}{% for call in m.tool_calls or [] %}
<tool_call>{{ call.function | tojson(sort_keys=true) }}</tool_call>{% endfor %}<|im_end|>
{% endgeneration %}
{%- else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

BLOCKS_WITHOUT_END = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    + CUE
)

# Qwen 3's: the reasoning of earlier answers is left out once a later question stands.
THINKING = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.index0 < ns.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}" + CUE
)

# Gemma's: no system turn, the assistant under another name.
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)

PREFIX_STABLE = {"chatml": CHATML, "default_system": DEFAULT_SYSTEM, "sliced": SLICED, "looks_ahead": LOOKS_AHEAD}
