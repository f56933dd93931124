"""python -m recurlm.cli"""

from recurlm.cli import main

main()
