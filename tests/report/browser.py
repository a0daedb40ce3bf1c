"""A headless Chromium that opens a page, does something there and tells what came of it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")

_HEAD = "<head><script>var failures = []; onerror = error => { failures.push(error) }</script>"

# What came of it is written into the page's title, which --dump-dom prints.
_PROBE = """<script>
addEventListener('load', () => setTimeout(async () => {
  const get = id => document.getElementById(id), all = name => [...document.querySelectorAll(name)];
  const images = [...document.images];
  // Data come by scripts, at their own pace, and pictures when a frame shows their card: until nothing has
  // changed for a while, all images are there and so is what the test waits for.
  const later = wait => new Promise(done => setTimeout(done, wait));
  const settled = async () => {
    for (let known = '', same = 0, turn = 0; turn < 25; turn++) {
      const now = document.body.innerHTML;
      [known, same] = now === known ? [known, same + 1] : [now, 0];
      if (same >= 6 && images.every(i => i.loading === 'lazy' || i.complete) && (READY)) return true;
      await Promise.race([new Promise(requestAnimationFrame), later(100)]);
      await later(200);
    }
    return false;
  };
  const came = await settled();
  const found = await (async () => { SCRIPT })();
  document.title = JSON.stringify({
    came, errors: failures, wide: document.documentElement.scrollWidth, pictures: images.length,
    broken: images.filter(image => !image.naturalWidth).length, ...found,
  });
}, 1500));
</script></body>"""


def browse(page, script, tmp_path, *, ready="true", window=(500, 800), address=Path.as_uri):
    """What `script` returns, an object, once file `page` has settled (to wait again: `await settled()`).

    Besides: "came", whether it had settled; "errors", what scripts failed with; "wide", pixels from left to
    right; "pictures", how many images, and "broken", how many of them show nothing.
    `ready`: an expression, true where there is nothing more to wait for. `address`: of a file, where the
    browser looks for it.
    """
    html = page.read_text(encoding="utf-8").replace("<head>", _HEAD)
    html = html.replace("</body>", _PROBE.replace("READY", ready).replace("SCRIPT", script))
    probed = page.with_name(f"probed-{page.name}")
    probed.write_text(html, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=60000",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size={},{}".format(*window), "--dump-dom",
        address(probed),
    ]  # fmt: skip
    # A browser that is just being read from disk may use its virtual time up before a server's answer.
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.S)
        if found is not None and (shown := json.loads(unescape(found[1])))["came"]:
            break
    probed.unlink()
    assert found is not None, done.stdout[:2000]
    return shown
