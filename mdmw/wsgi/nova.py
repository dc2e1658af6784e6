"""The pipeline `nova` as a module, for servers that import `mdmw.wsgi.nova:application`."""

from mdmw.wsgi.pipelines import load_or_exit

application = load_or_exit("nova")
