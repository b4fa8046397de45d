import subprocess
import sys


def test_tokens_need_numpy_alone() -> None:
    code = (
        "import sys, pgvision.tokens\n"
        "heavy = {'torch', 'cv2', 'transformers', 'supervision', 'PIL'} & set(sys.modules)\n"
        "sys.exit(bool(heavy) and str(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
