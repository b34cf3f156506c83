"""The page that asks a browser for the token: plain HTML, no script, nothing fetched.

Its form is sent by POST, so that the token stands in no address, history or log.
"""

import base64
import hashlib
import html

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 0; min-height: 100vh; display: grid; place-items: center }
main { width: min(22rem, calc(100vw - 3rem)) }
h1 { font-size: 1.4rem; margin: 0 0 .5rem }
label { display: block; margin: 1.25rem 0 .25rem; font-weight: 600 }
input, button { font: inherit; box-sizing: border-box; width: 100%; padding: .5rem .75rem;
  border: 1px solid #767676; border-radius: .375rem }
button { margin-top: 1rem; border-color: #064787; background: #064787; color: #fff;
  cursor: pointer }
:focus-visible { outline: 3px solid #4d9ab8; outline-offset: 2px }
.fault { border-left: 4px solid #b3261e; padding: .25rem .75rem; margin: 1rem 0 0 }
code { font-size: .9em }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{_DIGEST}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy under which it is shown."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Token needed</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>This dashboard asks for a token</h1>
<p>It is in the file that <code>--token-file</code> names where the dashboard was started.</p>
{fault}
<form method="post" action="{action}">
<input type="hidden" name="next" value="{target}">
<label for="token">Token</label>
<input id="token" name="token" type="password" required autofocus
  autocomplete="current-password"{described}>
<button type="submit">Open</button>
</form>
{link}
</main>
</body>
</html>
"""


def render(action: str, target: str, fault: str = "", followed: str = "") -> str:
    """The page; its form goes to `action`, and to `target` once the token was right.

    `followed` is where a link of another page led, for which browsers keep the cookie back: who
    has one goes on from here.
    """
    link = f'<p><a href="{html.escape(followed)}">Go on</a> if this browser has had it.</p>'
    said = f'<p class="fault" id="fault" role="alert">{html.escape(fault)}</p>' if fault else ""
    return _PAGE.format(
        style=_STYLE,
        action=html.escape(action),
        target=html.escape(target),
        fault=said,
        link=link if followed else "",
        described=' aria-describedby="fault" aria-invalid="true"' if fault else "",
    )
