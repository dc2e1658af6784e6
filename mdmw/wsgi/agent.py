"""The pipeline `agent` as a module, for servers that import `mdmw.wsgi.agent:application`."""

from mdmw.wsgi.pipelines import load_or_exit

application = load_or_exit("agent")
